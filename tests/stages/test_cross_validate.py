"""Folds: each patient is tested once, by a classifier that has not seen them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from femur_jax.data.cohort import SPLITS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import PatientScores
from femur_jax.run_folder import load_config
from femur_jax.stages import cross_validate


def test_interval_is_that_of_influence_curves():
    """LeDell et al. 2015, equation 8, pair by pair."""
    rng = np.random.default_rng(0)
    folds = [
        PatientScores(rng.normal(size=n) + 1.2 * positive, positive)
        for n in (30, 37, 42)
        for positive in [rng.random(n) < 0.4]
    ]
    found = cross_validate.cross_validated_auc(folds)
    areas, variances = [], []
    for fold in folds:
        x, y = fold.score[fold.positive], fold.score[~fold.positive]
        wins = (x[:, None] > y).astype(float)
        areas.append(roc_auc_score(fold.positive, fold.score))
        variances.append(
            wins.mean(axis=1).var(ddof=1) / len(x) + wins.mean(axis=0).var(ddof=1) / len(y)
        )
    assert found.value == pytest.approx(np.mean(areas))
    error = np.sqrt(np.sum(variances)) / len(folds)
    assert found.high - found.value == pytest.approx(1.959964 * error)
    assert found.value - found.low == pytest.approx(1.959964 * error)


def test_every_patient_is_tested_once(dataset, classifier_config, tmp_path):
    config = classifier_config.copy_and_resolve_references()
    config.folds = 3
    config.model.stage_sizes = (1,)
    config.train.update(steps=4, checkpoint_every=2, log_every=2, warmup_steps=1)
    workdir = tmp_path / "run"
    cross_validate.cross_validate(config, workdir)
    result = json.loads((workdir / cross_validate.RESULT).read_text())
    assert sorted(result["patient"]) == sorted(e.patient for e in dataset.entries)
    label_of = {e.patient: e.label == "AFF" for e in dataset.entries}
    assert result["positive"] == [label_of[patient] for patient in result["patient"]]
    # Its folds' areas are those of parts of the whole.
    place, areas = 0, []
    for k in (1, 2, 3):
        by = load_config(workdir / f"fold_{k}").data.draw.by
        tested = RadiographDataset(dataset.folder).split("test", by)
        own = slice(place, place := place + len(tested))
        assert result["patient"][own] == [dataset.entries[n].patient for n in tested]
        areas.append(roc_auc_score(result["positive"][own], result["logit"][own]))
    assert result["folds"] == pytest.approx(areas)
    assert result["cross_validated_auc"]["value"] == pytest.approx(np.mean(areas))
    # Each negative patient validates the classifier of one fold.
    negatives = {e.patient for e in dataset.entries if e.label == "NFF"}
    assert result["operating_point"]["validation_negatives"] == len(negatives)
    with pytest.raises(UserError, match="Only a classifier"):
        config.task = "gan"
        cross_validate.cross_validate(config, tmp_path / "other")


def test_folds_of_a_dataset_keep_groups_together(dataset):
    found = RadiographDataset(dataset.folder)
    parts = {k: {s: found.split(s, f"{k}/4") for s in SPLITS} for k in range(1, 5)}
    every = sorted(n for part in parts.values() for n in part["test"])
    assert every == list(range(len(found.entries)))
    for k, part in parts.items():
        assert sorted(n for own in part.values() for n in own) == every
        assert part["validation"] == parts[k % 4 + 1]["test"]
    # Two patients of different folds are in one, once they share a picture.
    pair = [parts[k]["test"][0] for k in (1, 2)]
    for n in pair:
        found.entries[n] = replace(found.entries[n], group=found.entries[pair[0]].patient)
    tested = [set(found.split("test", f"{k}/4")) for k in range(1, 5)]
    assert [len(part.intersection(pair)) for part in tested].count(2) == 1
