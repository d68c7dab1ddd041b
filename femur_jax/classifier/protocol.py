"""Who a classifier is trained on, validated on and tested on, and what would make that unfair."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError


@dataclass(frozen=True)
class Part:
    """Some radiographs of a dataset, by position."""

    dataset: RadiographDataset
    radiographs: list[int]

    @property
    def patients(self) -> set[tuple[str, str]]:
        """Their patients' pseudonyms, which mean nothing beyond a synthetic dataset's folder."""
        home = str(self.dataset.folder.resolve()) if self.dataset.is_synthetic else ""
        return {(home, self.dataset.entries[n].patient) for n in self.radiographs}

    @property
    def labels(self) -> set[str]:
        """Those that occur."""
        return {self.dataset.entries[n].label for n in self.radiographs}


@dataclass(frozen=True)
class Protocol:
    """The parts of a classifier's run.

    Attributes:
        training: The train split of each dataset.
        validation: The validation split of the real dataset; where it lacks a class, empty.
        test: The real test split, or a whole synthetic dataset.
    """

    training: list[Part]
    validation: Part
    test: Part


def protocol(
    trained_on: Sequence[RadiographDataset],
    real: RadiographDataset,
    tested_on: RadiographDataset,
    *,
    by: str,
    columns: Sequence[str] = (),
    before: Sequence[Part] = (),
) -> Protocol:
    """Deals the roles and refuses what would not be fair.

    Args:
        trained_on: Real and synthetic datasets.
        real: Whose patients the classifier is validated on, whatever it is trained on.
        tested_on: Real or synthetic.
        by: Of the split, see `RadiographDataset.split`.
        columns: Further columns that the classifier gets beside the radiograph.
        before: What the classifier that it starts from was trained on.

    Raises:
        UserError: A dataset does not say where it comes from; training or test lack a class; a
            patient who is tested was trained or validated on, by the classifier or, as far as can
            be told, by the model that made a synthetic dataset; or a dataset lacks a column.
    """
    for dataset in (*trained_on, real, tested_on):
        _check_provenance(dataset)
        _check_columns(dataset, columns)
    training = [Part(dataset, dataset.split("train", by)) for dataset in trained_on]
    validation = Part(real, real.split("validation", by))
    if len(validation.labels) < len(LABELS):
        validation = Part(real, [])
    test = Part(tested_on, tested_on.split("train" if tested_on.is_synthetic else "test", by))
    folders = ", ".join(str(dataset.folder) for dataset in trained_on)
    for labels, where in (
        (set().union(*(part.labels for part in training)), f"The train split of {folders}"),
        (test.labels, f"What is tested of {tested_on.folder}"),
    ):
        for label in LABELS:
            if label not in labels:
                raise UserError(
                    f"{where} has no radiograph with label {label}, and a classifier needs both; "
                    "name another dataset or split."
                )
    seen = validation.patients.union(*(part.patients for part in (*training, *before)))
    if overlap := test.patients & seen:
        raise UserError(
            f"{len(overlap)} patients of {tested_on.folder} would be tested that were trained on; "
            "train on another dataset or split."
        )
    for dataset in (*trained_on, *(part.dataset for part in before)):
        _check_origin(dataset, tested_on, by)
    return Protocol(training, validation, test)


def origin(dataset: RadiographDataset, by: str) -> dict[str, str]:
    """What a synthetic dataset tells of the radiographs that its model was trained on.

    Two digests of pseudonyms: `dataset` of all radiographs, `trained_on` of the train split.
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
            f"{dataset.folder} does not tell where its radiographs come from ({missing[0]} is "
            "missing in its provenance), so nobody knows whether that is fair; make it again."
        )


def _check_columns(dataset: RadiographDataset, columns: Sequence[str]) -> None:
    if columns and dataset.is_synthetic:
        raise UserError(
            f"{dataset.folder} is synthetic, and nobody has an age or a history there; leave out "
            "config.data.columns."
        )
    for column in columns:
        if column not in dataset.provenance.get("columns", ()):
            raise UserError(
                f"{dataset.folder} has no column {column!r}; make it again with "
                f"femur ingest --columns={','.join(columns)}."
            )


def _check_origin(made: RadiographDataset, tested_on: RadiographDataset, by: str) -> None:
    """Of another dataset's radiographs, or of a training split with none that is tested."""
    if not made.is_synthetic or tested_on.is_synthetic:
        return
    wanted, found = origin(tested_on, by), made.provenance
    if found["dataset"] == wanted["dataset"] and found["trained_on"] != wanted["trained_on"]:
        raise UserError(
            f"The model that made {made.folder} was trained on another split of "
            f"{tested_on.folder}, so it may have seen patients who would be tested; train it with "
            "the same config.data.draw.by as the classifier."
        )
