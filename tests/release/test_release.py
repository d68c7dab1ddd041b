"""`femur release` on drawn radiographs: copies and noise leave, the rest is shared."""

import csv
import dataclasses
import hashlib
import json
import stat
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image

from configs import classifier
from configs.gan import get_config
from femur_jax import run_folder
from femur_jax.classifier.protocol import origin
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.data.synthetic import Request, SyntheticSpool
from femur_jax.errors import UserError
from femur_jax.evaluation.generators import CopiesRow
from femur_jax.evaluation.statistics import Interval
from femur_jax.main import main
from femur_jax.release import selection
from femur_jax.stages.evaluate import evaluate
from femur_jax.stages.train import train
from femur_jax.training import loop
from tests.evaluation.conftest import drawn_radiographs

ABOUT = ["--creator=A University", "--url=https://www.example.org/femur"]
COPIED, NOISY, FRESH = 2, 2, 16


def make_real(folder, labels):
    """Drawn radiographs of each class, each of another patient."""
    images = iter(drawn_radiographs(np.random.default_rng(0), 80 * len(labels)))
    with DatasetWriter(folder, patch=32, provenance={"kind": "real"}) as writer:
        for split, count in (("train", 40), ("validation", 20), ("test", 20)):
            for n in range(count * len(labels)):
                name, label = f"{split}-{n}", labels[n % len(labels)]
                radiograph = Radiograph(next(images), name, label, name, f"hospital {n % 3}")
                writer.add(encode(radiograph, 32), split)
    return RadiographDataset(folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return make_real(tmp_path_factory.mktemp("real") / "real", ["AFF"])


def make_run(folder, real, images, labels=("AFF",)):
    """The run directory of a generator that has generated some images, of each class in turn."""
    config = get_config("tiny")
    config.dataset = str(real.folder)
    config.data.draw.label_shares = (len(labels) - 1.0, 1.0)
    run_folder.claim(folder, config, stage="train", free=loop.FREE_FIELDS)
    provenance = {
        "kind": "synthetic",
        "model": "gan",
        "config": run_folder.config_hash(config, without=loop.FREE_FIELDS),
        **origin(real, "patient"),
    }
    requests = [Request(48, 48, 0.2, labels[n % len(labels)]) for n in range(len(images))]
    spool = SyntheticSpool(folder / "synthetic", requests, patch=32, provenance=provenance)
    for n, image in enumerate(images):
        spool.add(n, image)
    spool.write()
    return folder


def generated(real, copies):
    rng = np.random.default_rng(1)
    return [
        *(real.read(n) for n in range(copies)),
        *rng.integers(0, 65536, (NOISY, 48, 48), np.uint16),
        *drawn_radiographs(rng, FRESH),
    ]


@pytest.fixture(scope="module")
def released(real, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    run = make_run(folder / "run", real, generated(real, COPIED))
    assert main(["release", str(run), f"--out={folder / 'out'}", *ABOUT]) == 0
    return folder / "out"


def test_copies_and_noise_are_left_out(released):
    dataset = RadiographDataset(released / "dataset")
    names = {entry.name for entry in dataset.entries}
    assert not names & {f"synthetic-{n:06d}" for n in range(COPIED + NOISY)}
    assert len(names) > FRESH / 2
    assert dataset.provenance["selected_from"] == COPIED + NOISY + FRESH


def test_the_three_forms_show_the_same(released):
    dataset = RadiographDataset(released / "dataset")
    with (released / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(dataset.entries)
    for n, row in enumerate(rows):
        pixels = dataset.read(n)
        np.testing.assert_array_equal(np.asarray(Image.open(released / row["path"])), pixels)
        stored = pydicom.dcmread(released / row["dicom"])
        apart = np.abs(stored.pixel_array.astype(float) / 4095 - pixels / 65535)
        assert apart.max() < 1 / 4095
        assert row["label"] == "AFF"


def test_checksums_and_modes(released):
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released, check=True)
    names = (released / "SHA256SUMS").read_text()
    for path in released.rglob("*"):
        if path.is_file() and path.name != "SHA256SUMS":
            assert f"  {path.relative_to(released)}\n" in names
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_cards_state_what_was_left_out_and_what_the_audit_sees(released, real):
    card = (released / "DATA_CARD.md").read_text()
    dataset = RadiographDataset(released / "dataset")
    total = COPIED + NOISY + FRESH
    assert f"Of {total} generated radiographs {len(dataset.entries)} are released" in card
    listed = [
        int(line.split("|")[2])
        for line in card.splitlines()
        if line.split("|")[1:2] and line.split("|")[1].strip() in selection.ALL_REASONS
    ]
    assert len(listed) == len(selection.ALL_REASONS)
    assert sum(listed) == total - len(dataset.entries) and listed[0] >= COPIED
    assert "rotated by 5°" in card and "would go unnoticed" in card
    for text in (card, (released / "MODEL_CARD.md").read_text()):
        assert "none shows a patient" not in text.lower()
        assert str(real.folder) not in text
    assert "CC-BY-4.0" in (released / "LICENSE").read_text()


def make_classifier(folder, real, trained_on):
    """A classifier of one block, trained for eight steps and tested."""
    config = classifier.get_config("tiny")
    config.dataset, config.train_datasets = str(real.folder), (str(trained_on),)
    config.model.update(stage_sizes=(1,), width=8)
    config.train.update(steps=8, batch_size=16, checkpoint_every=8, warmup_steps=1, images_every=9)
    train(config, folder)
    evaluate(config, folder)
    auc = json.loads((folder / "evaluation.json").read_text())["auc"]
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**auc)


def test_a_classifier_is_trained_again_on_what_is_released(tmp_path):
    """The card's areas are those of a user who trains on all radiographs and on the released."""
    real = make_real(tmp_path / "real", ["NFF", "AFF"])
    images = [*generated(real, 0), *generated(real, 0)]
    run, out = make_run(tmp_path / "run", real, images, ("NFF", "AFF")), tmp_path / "out"
    before = make_classifier(tmp_path / "before", real, run / "synthetic")
    options = [f"--out={out}", *ABOUT, f"--classifier={tmp_path / 'before'}"]
    assert main(["release", str(run), *options]) == 0
    card = (out / "DATA_CARD.md").read_text()
    after = make_classifier(tmp_path / "after", real, out / "dataset")
    assert before != after and f"has an AUC of {before} on real test patients" in card
    assert f"on the released ones has {after}, a difference of" in card
    assert not (out / "classifier").exists()


# rdflib, which mlcroissant uses, calls what it deprecates itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_croissant_is_valid(released):
    """By the reference implementation, which also reads the label table through it."""
    mlcroissant = pytest.importorskip("mlcroissant")
    found = mlcroissant.Dataset(jsonld=released / "croissant.json")
    assert not found.metadata.ctx.issues.errors
    rows = list(found.records(record_set="radiographs"))
    assert len(rows) == len(RadiographDataset(released / "dataset").entries)


def test_croissant_has_what_the_specification_requires(released):
    """Croissant 1.0, the tables of required properties."""
    fields = json.loads((released / "croissant.json").read_text())
    required = ("@context", "@type", "conformsTo", "description", "license", "name", "url")
    assert {*required, "creator", "datePublished"} <= fields.keys()
    [table] = [f for f in fields["distribution"] if f["@type"] == "cr:FileObject"]
    data = (released / table["contentUrl"]).read_bytes()
    assert table["sha256"] == hashlib.sha256(data).hexdigest()
    [records] = fields["recordSet"]
    columns = data.decode().splitlines()[0].split(",")
    assert [field["source"]["extract"]["column"] for field in records["field"]] == columns


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("real", "for synthetic radiographs alone"),
        ("absent", "holds no run"),
        ("exists", "exists; remove it"),
        ("classifier", "not the run directory of a classifier that was trained on"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(real, tmp_path, capsys, kind, sentence):
    source, out = tmp_path / kind, tmp_path / "out"
    if kind == "real":
        source = real.folder
    if kind == "exists":
        out.mkdir()
    options = [f"--out={out}", *ABOUT]
    if kind == "classifier":  # which is a generator
        source = make_run(source, real, generated(real, 0))
        options.append(f"--classifier={source}")
    capsys.readouterr()
    assert main(["release", str(source), *options]) == 2
    [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("femur_jax:")]
    assert sentence in line
    assert kind == "exists" or not out.exists()


def test_an_accused_rest_is_refused_with_the_verdict():
    interval = Interval(0.5, 0.4, 0.6)
    row = CopiesRow(
        label="AFF",
        n=7,
        pairs=[],
        flagged_share=interval,
        chance_share=0.01,
        copies=0,
        authentic_share=1.0,
        membership_auc=interval,
        membership_p=1e-6,
        tpr_at_1_fpr=None,
        planted=20,
        found={},
        is_accused=True,
        verdict="Do not share: the set reveals who was in the training set.",
    )
    with pytest.raises(UserError, match="accuses the 7 radiographs of AFF"):
        selection.refuse_accused([row])
    selection.refuse_accused([dataclasses.replace(row, is_accused=False)])


def test_leaving_out_everything_is_refused_with_the_reasons():
    counts = selection.counts({0: selection.FLAGGED, 1: selection.REJECTED, 2: selection.REJECTED})
    selection.refuse_nothing(counts, 4)
    with pytest.raises(UserError, match=r"All 3 radiographs .*rejected by a reader: 2") as error:
        selection.refuse_nothing(counts, 3)
    assert "no bone" not in str(error.value)
