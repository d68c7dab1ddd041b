"""The patients that a classifier is trained, validated and tested on, and what would be unfair."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError


@dataclass(frozen=True)
class Subset:
    """Some radiographs of a dataset, by position."""

    dataset: RadiographDataset
    radiographs: list[int]

    @property
    def patients(self) -> set[tuple[str, str]]:
        """Pseudonyms of the patients; those of a synthetic dataset hold only in its folder."""
        home = str(self.dataset.folder.resolve()) if self.dataset.is_synthetic else ""
        return {(home, self.dataset.entries[n].patient) for n in self.radiographs}

    @property
    def labels(self) -> set[str]:
        """The labels that occur."""
        return {self.dataset.entries[n].label for n in self.radiographs}


@dataclass(frozen=True)
class Protocol:
    """The radiographs of a classifier's run.

    Attributes:
        training: The train split of each dataset.
        validation: The validation split of the real dataset; empty where it lacks a class.
        test: The real test split, or a whole synthetic dataset.
    """

    training: list[Subset]
    validation: Subset
    test: Subset


def protocol(
    trained_on: Sequence[RadiographDataset],
    real: RadiographDataset,
    tested_on: RadiographDataset,
    *,
    by: str,
    columns: Sequence[str] = (),
    before: Sequence[Subset] = (),
) -> Protocol:
    """Assigns the splits to their roles and refuses what would be unfair.

    Args:
        trained_on: Real and synthetic datasets to train on.
        real: The dataset whose patients the classifier is validated on.
        tested_on: A real or synthetic dataset to test on.
        by: The kind of split, see `RadiographDataset.split`.
        columns: Further columns that the classifier gets in addition to the radiograph.
        before: The radiographs that an earlier classifier, which this one starts from, was trained
            on.

    Raises:
        UserError: A dataset does not state where it comes from; training or test lack a class; a
            patient of the test was used for training or validation by the classifier or, as far as
            is known, by the model of a synthetic dataset; or a dataset lacks a column.
    """
    for dataset in (*trained_on, real, tested_on):
        _check_provenance(dataset)
        _check_columns(dataset, columns)
    training = [Subset(dataset, dataset.split("train", by)) for dataset in trained_on]
    validation = Subset(real, real.split("validation", by))
    if len(validation.labels) < len(LABELS):
        validation = Subset(real, [])
    test = Subset(tested_on, tested_on.split("train" if tested_on.is_synthetic else "test", by))
    folders = ", ".join(str(dataset.folder) for dataset in trained_on)
    for labels, where in (
        (set().union(*(subset.labels for subset in training)), f"The train split of {folders}"),
        (test.labels, f"The test split of {tested_on.folder}"),
    ):
        for label in LABELS:
            if label not in labels:
                raise UserError(
                    f"{where} has no radiograph with label {label}, but a classifier needs both; "
                    "name another dataset or split."
                )
    seen = validation.patients.union(*(subset.patients for subset in (*training, *before)))
    if overlap := test.patients & seen:
        raise UserError(
            f"{len(overlap)} patients of {tested_on.folder} are in the test as well as in the "
            "training; train on another dataset or split."
        )
    for dataset in (*trained_on, *(subset.dataset for subset in before)):
        _check_origin(dataset, tested_on, by)
    return Protocol(training, validation, test)


def origin(dataset: RadiographDataset, by: str) -> dict[str, str]:
    """Returns two digests of pseudonyms, which a synthetic dataset keeps of its model's data.

    `dataset` is over all radiographs, `trained_on` over the train split.
    """
    return {
        "dataset": _digest(dataset, range(len(dataset.entries))),
        "trained_on": _digest(dataset, dataset.split("train", by)),
    }


def _digest(dataset: RadiographDataset, radiographs: Sequence[int]) -> str:
    names = sorted(dataset.entries[n].name for n in radiographs)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _check_provenance(dataset: RadiographDataset) -> None:
    needed = ("kind", "model", "dataset", "trained_on") if dataset.is_synthetic else ("kind",)
    if missing := [name for name in needed if name not in dataset.provenance]:
        raise UserError(
            f"{dataset.folder} does not state where its radiographs come from ({missing[0]} is "
            "missing in its provenance), so its use may be unfair; make it again."
        )


def _check_columns(dataset: RadiographDataset, columns: Sequence[str]) -> None:
    if columns and dataset.is_synthetic:
        raise UserError(
            f"{dataset.folder} is synthetic and has no ages or histories; leave out "
            "config.data.columns."
        )
    for column in columns:
        if column not in dataset.provenance.get("columns", ()):
            raise UserError(
                f"{dataset.folder} has no column {column!r}; make it again with "
                f"femur ingest --columns={','.join(columns)}."
            )


def _check_origin(synthetic: RadiographDataset, tested_on: RadiographDataset, by: str) -> None:
    """Refuses a generator that may have been trained on patients of the test."""
    if not synthetic.is_synthetic or tested_on.is_synthetic:
        return
    expected = origin(tested_on, by)
    for known in (synthetic.provenance, *synthetic.provenance.get("started_from", ())):
        same_data = known["dataset"] == expected["dataset"]
        if same_data and known["trained_on"] != expected["trained_on"]:
            raise UserError(
                f"The model of {synthetic.folder}, or the one that it started from, was trained on "
                f"another split of {tested_on.folder}, so it may have seen patients of the test; "
                "train it with the same config.data.draw.by as the classifier."
            )
