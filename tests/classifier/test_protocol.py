"""Who is trained on and tested on, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from femur_jax.classifier.protocol import Part, origin, protocol
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
    """Made by models that were trained on the patients' split, and on the hospitals'."""
    made = [(f"s{n}", f"s{n}", LABELS[n % 2], "train", "") for n in range(6)]
    folder = tmp_path_factory.mktemp("protocol")
    return {
        by: write(folder / by, made, kind="synthetic", model="gan", **origin(real, by))
        for by in ("patient", "hospital")
    }


def entries(part):
    return [part.dataset.entries[n] for n in part.radiographs]


def test_roles_are_the_splits(real):
    found = protocol([real], real, real, by="patient")
    [training] = found.training
    for part, split in zip((training, found.validation, found.test), SPLITS, strict=True):
        assert {e.split for e in entries(part)} == {split}
        assert len(part.radiographs) == 8


def test_synthetic_radiographs_have_one_split_whatever_the_real_ones_are_by(real, synthetic):
    found = protocol([real, synthetic["hospital"]], real, real, by="hospital")
    real_part, synthetic_part = found.training
    assert {e.hospital_split for e in entries(real_part)} == {"train"}
    assert len(synthetic_part.radiographs) == 6
    assert {e.hospital_split for e in entries(found.test)} == {"test"}


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


def test_models_of_other_hospitals_radiographs_are_welcome(real, synthetic, tmp_path):
    elsewhere = write(tmp_path / "elsewhere", rows("q"), kind="real")
    protocol([synthetic["patient"]], elsewhere, elsewhere, by="hospital")


def without(dataset, *names):
    found = RadiographDataset(dataset.folder)
    found.provenance = {k: v for k, v in dataset.provenance.items() if k not in names}
    return found


def of_class(dataset, label):
    found = RadiographDataset(dataset.folder)
    found.entries = [replace(e, label=label) for e in dataset.entries]
    return found


def test_what_would_not_be_fair_is_refused(real, synthetic):
    def refused(match, trained_on, tested_on=real, **settings):
        with pytest.raises(UserError, match=match):
            protocol(trained_on, real, tested_on, **({"by": "patient"} | settings))

    refused("train split of .* no radiograph with label AFF", [of_class(real, "NFF")])
    refused("tested of .* no radiograph with label NFF", [real], of_class(real, "AFF"))
    refused("where its radiographs come from .kind", [without(real, "kind")])
    refused("where its radiographs come from .model", [without(synthetic["patient"], "model")])
    refused("another split of", [synthetic["patient"]], by="hospital")
    refused("another split of", [real, synthetic["hospital"]])
    refused("another split of", [real], before=[Part(synthetic["hospital"], [0])])
    refused("has no column 'sex'.*--columns=age,sex", [real], columns=("age", "sex"))
    refused("is synthetic, and nobody has", [synthetic["patient"]], columns=("age",))
    refused("by 'moon'; write patient", [real], by="moon")
    # Patients of the hospitals that are tested, to whom the classifier that came before owes much.
    before = [Part(real, real.split("validation", "patient"))]
    refused("4 patients of", [synthetic["hospital"]], by="hospital", before=before)
    other = RadiographDataset(real.folder)
    other.entries = [
        replace(e, split={"train": "test"}.get(e.split, e.split)) for e in real.entries
    ]
    refused("4 patients of .* that were trained on", [real], other)
