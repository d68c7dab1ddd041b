"""What a list of paths, patients and hospitals reveals about a dataset without the key."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from benchmarks import identities
from benchmarks.identities import FRACTIONS, MOST_BY_CHANCE, linked, write_files
from femur_jax.classifier.groups import groups_of
from femur_jax.classifier.summary import summarise
from femur_jax.classifier.task import Predictions
from femur_jax.data.cohort import seeded_hash, split_patients
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.membership import membership_inference
from femur_jax.ingest.pipeline import ingest
from femur_jax.inspection.fingerprint import fingerprint

PATIENTS, FILMS = 40, 4


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital") / "films"
    return folder, write_files(folder, patients=PATIENTS, films=FILMS, hospitals=4)


@pytest.fixture(scope="module")
def datasets(films, tmp_path_factory):
    """The same files under two keys."""
    folder, _ = films
    out = tmp_path_factory.mktemp("out")
    settings = {"patch": 32, "fractions": FRACTIONS, "max_quarantined": 0.2, "workers": 1}
    for name in ("a", "b"):
        key = out / f"{name}.key"
        ingest(folder, folder / "labels.csv", out / name, key_file=key, **settings)
    return out


def test_without_the_key_no_more_than_chance_is_linked(films, datasets):
    _, lines = films
    for name in ("a", "b"):
        found = linked(lines, datasets / name, datasets / f"{name}.key")
        assert found["records"] <= MOST_BY_CHANCE
        assert found["rows of tables"] <= MOST_BY_CHANCE
        assert found["names and digests"] == 0
        # 65, 15 and 20% in three splits: two unrelated draws agree for 48.5% of the patients.
        assert found["splits of patients"] < PATIENTS * 0.485 + 4 * np.sqrt(PATIENTS) / 2


def test_the_attack_links_orders_and_splits_that_follow_names(films, datasets, tmp_path):
    """The attack on a manifest as earlier versions wrote it."""
    _, lines = films
    copy = tmp_path / "copy"
    shutil.copytree(datasets / "a", copy)
    key = datasets / "a.key"
    file = copy / "dataset.json"
    manifest = json.loads(file.read_text())
    name = identities.Pseudonyms(key)
    line = {name("file", li.path): li for li in lines}
    split = split_patients({li.patient: li.label for li in lines}, fractions=FRACTIONS, seed=0)
    rows = manifest["radiographs"]
    for row in rows:
        row["split"] = split[line[row["name"]].patient]
    rows.sort(key=lambda row: seeded_hash(0, line[row["name"]].path))
    file.write_text(json.dumps(manifest))
    found = linked(lines, copy, key)
    assert found["records"] == len(rows)
    assert found["splits of patients"] == PATIENTS


def _without_names(entry):
    return {
        name: value
        for name, value in vars(entry).items()
        if name not in ("name", "patient", "hospital", "group")
    }


def test_only_pseudonyms_depend_on_the_key(datasets):
    a, b = (RadiographDataset(datasets / name) for name in "ab")
    assert [_without_names(e) for e in a.entries] == [_without_names(e) for e in b.entries]
    assert not {e.name for e in a.entries} & {e.name for e in b.entries}
    for by in ("patient", "hospital", "1/3", "2/5"):
        assert a.split("test", by) == b.split("test", by) != []


def _numbers(dataset):
    """The numbers of reports on a dataset, with scores that follow from the pixels alone."""
    entries = dataset.entries
    positive = np.array([entry.label == LABELS[1] for entry in entries])
    score = np.array([int(entry.sha256[:8], 16) / 2**32 for entry in entries])
    predictions = Predictions(
        logit=score + 0.3 * positive,
        features=score[:, None],
        positive=positive,
        patients=[entry.patient for entry in entries],
        hospitals=[entry.hospital for entry in entries],
        groups=groups_of(entries),
    )
    tested = summarise(predictions, None, trained_share=0.5, true_share=0.3)
    del tested["patient"]
    for row in tested["by"]["hospital"]:
        del row["group"]
    members, others = slice(0, None, 2), slice(1, None, 2)
    nearest = np.abs(score[:, None] - np.linspace(0, 1, 9)).min(axis=1)
    attack = membership_inference(
        nearest[members],
        nearest[others],
        predictions.patients[members],
        predictions.patients[others],
    )
    page = fingerprint(dataset)
    unnamed = [
        dataclasses.replace(row, name="", categories=row.categories | {"hospital": {}})
        for row in page.hospitals
    ]
    hospitals = sorted(map(repr, unnamed))
    return tested, attack, hospitals, page.separations, page.histograms, page.leaks


def test_the_numbers_of_reports_do_not_depend_on_the_key(datasets):
    a, b = (_numbers(RadiographDataset(datasets / name)) for name in "ab")
    for first, second in zip(a, b, strict=True):
        assert first == second
