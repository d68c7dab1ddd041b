"""Films that are unlike the training radiographs."""

import dataclasses
import json

import numpy as np
import pytest

from femur_jax.data.letterbox import letterbox
from femur_jax.prediction.familiarity import Familiar, picture


@pytest.fixture(scope="module")
def familiar(dataset):
    entries = [dataset.entries[n] for n in dataset.split("train")]
    rng = np.random.default_rng(0)
    return Familiar.with_training(
        entries, rng.normal(size=(4000, 3)) @ np.diag([1, 2, 3]) + 5, rng.normal(size=(9, 3)) + 5
    )


def test_sizes_and_shapes_outside_those_of_training_are_named(familiar, dataset):
    entry = dataset.entries[dataset.split("train")[0]]
    usual = np.array(familiar.pictures.mean)
    assert familiar.remarks(entry, usual) == []
    large = dataclasses.replace(entry, height=10 * entry.height, width=10 * entry.width)
    assert familiar.remarks(large, usual) == ["size"]
    narrow = dataclasses.replace(entry, height=10 * entry.height, width=entry.width // 10)
    assert familiar.remarks(narrow, usual) == ["shape"]
    assert familiar.remarks(entry, usual + 100) == ["picture"]


def test_a_picture_is_described_without_its_surround(dataset):
    height, width = dataset.level_sizes(0)[-1]
    tight, loose = (letterbox(dataset, 0, (n * height, n * width)) for n in (1, 3))
    np.testing.assert_array_equal(picture(tight), picture(loose))


def test_json_restores_it(familiar):
    assert Familiar.from_json(json.loads(json.dumps(dataclasses.asdict(familiar)))) == familiar
