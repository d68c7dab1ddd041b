"""Training and test patients, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from femur_jax.classifier.protocol import Subset, origin, protocol
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.errors import UserError

SPLITS = ("train", "validation", "test")


def write(folder, rows, **provenance):
    """A dataset of (name, patient, label, split, hospital split)."""
    with DatasetWriter(folder, patch=16, provenance=provenance) as writer:
        for name, patient, label, split, hospital_split in rows:
            radiograph = Radiograph(
                pixels=np.zeros((4, 4), np.uint16),
                name=name,
                label=label,
                patient=patient,
                hospital="h",
                columns={"age": 70.0},
            )
            writer.add(encode(radiograph, 16), split, hospital_split)
    return RadiographDataset(folder)


def rows(prefix, splits=SPLITS):
    """Each patient has two radiographs; by hospital, other patients are tested."""
    return [
        (f"{prefix}{split}{n}", f"{prefix}{split}{n // 2}", LABELS[n // 2 % 2], split, by_hospital)
        for split in splits
        for n in range(8)
        for by_hospital in [SPLITS[n // 4] if split == "train" else "test"]
    ]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocol") / "real"
    return write(folder, rows("p"), kind="real", columns=["age"])


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory, real):
    """Datasets of models that were trained on the split of patients and on that of hospitals."""
    samples = [(f"s{n}", f"s{n}", LABELS[n % 2], "train", "") for n in range(6)]
    folder = tmp_path_factory.mktemp("protocol")
    return {
        by: write(folder / by, samples, kind="synthetic", model="gan", **origin(real, by))
        for by in ("patient", "hospital")
    }


def entries(subset):
    return [subset.dataset.entries[n] for n in subset.radiographs]


def test_roles_are_the_splits(real):
    roles = protocol([real], real, real, by="patient")
    [training] = roles.training
    for subset, split in zip((training, roles.validation, roles.test), SPLITS, strict=True):
        assert {e.split for e in entries(subset)} == {split}
        assert len(subset.radiographs) == 8


def test_synthetic_radiographs_have_one_split_whatever_the_real_ones_are_by(real, synthetic):
    roles = protocol([real, synthetic["hospital"]], real, real, by="hospital")
    real_subset, synthetic_subset = roles.training
    assert {e.hospital_split for e in entries(real_subset)} == {"train"}
    assert len(synthetic_subset.radiographs) == 6
    assert {e.hospital_split for e in entries(roles.test)} == {"test"}


def test_a_synthetic_dataset_is_tested_as_a_whole(real, synthetic):
    assert len(protocol([real], real, synthetic["patient"], by="patient").test.radiographs) == 6


def test_synthetic_datasets_share_names_and_no_patients(real, synthetic):
    protocol([synthetic["patient"]], real, synthetic["hospital"], by="patient")
    with pytest.raises(UserError, match="6 patients of"):
        protocol([synthetic["patient"]], real, synthetic["patient"], by="patient")


def test_without_validation_patients_of_both_classes_there_is_no_validation(tmp_path):
    some = [r for r in rows("p") if r[3] != "validation" or r[2] == "AFF"]
    dataset = write(tmp_path / "some", some, kind="real")
    assert protocol([dataset], dataset, dataset, by="patient").validation.radiographs == []


def test_models_of_other_hospitals_radiographs_are_accepted(real, synthetic, tmp_path):
    elsewhere = write(tmp_path / "elsewhere", rows("q"), kind="real")
    roles = protocol([synthetic["patient"]], elsewhere, elsewhere, by="hospital")
    assert [subset.dataset for subset in roles.training] == [synthetic["patient"]]
    assert roles.test.dataset is elsewhere
    assert {e.hospital_split for e in entries(roles.test)} == {"test"}


def without(dataset, *names):
    copy = RadiographDataset(dataset.folder)
    copy.provenance = {k: v for k, v in dataset.provenance.items() if k not in names}
    return copy


def of_class(dataset, label):
    copy = RadiographDataset(dataset.folder)
    copy.entries = [replace(e, label=label) for e in dataset.entries]
    return copy


def test_unfair_roles_are_refused(real, synthetic):
    def refused(match, trained_on, tested_on=real, **settings):
        with pytest.raises(UserError, match=match):
            protocol(trained_on, real, tested_on, **({"by": "patient"} | settings))

    refused("train split of .* no radiograph with label AFF", [of_class(real, "NFF")])
    refused("test split of .* no radiograph with label NFF", [real], of_class(real, "AFF"))
    refused("where its radiographs come from .kind", [without(real, "kind")])
    refused("where its radiographs come from .model", [without(synthetic["patient"], "model")])
    refused("another split of", [synthetic["patient"]], by="hospital")
    refused("another split of", [real, synthetic["hospital"]])
    started = without(synthetic["patient"])
    started.provenance["started_from"] = [synthetic["hospital"].provenance]
    refused("the one that it started from", [started])
    refused("another split of", [real], before=[Subset(synthetic["hospital"], [0])])
    refused("has no column 'sex'.*--columns=age,sex", [real], columns=("age", "sex"))
    refused("is synthetic and has no ages", [synthetic["patient"]], columns=("age",))
    refused("by 'moon'; write patient", [real], by="moon")
    # The classifier before was validated on patients of the hospitals that are tested.
    before = [Subset(real, real.split("validation", "patient"))]
    refused("4 patients of", [synthetic["hospital"]], by="hospital", before=before)
    other = RadiographDataset(real.folder)
    other.entries = [
        replace(e, split={"train": "test"}.get(e.split, e.split)) for e in real.entries
    ]
    refused("4 patients of .* in the test as well as in the training", [real], other)
