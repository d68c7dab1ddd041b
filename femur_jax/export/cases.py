"""Choice of the radiographs to export, their patient names, and tables of them."""

import csv
import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from femur_jax.data.cohort import seeded_hash
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import RadiographEntry
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

_COLUMNS = ("file", "patient_id", "dataset", "radiograph", "label", "kind")
_FACTS = ("hospital", "label", "view", "laterality", "split", "spacing_mm", "spacing_source")


@dataclass(frozen=True)
class Case:
    """One radiograph to be exported.

    Attributes:
        dataset: Dataset of the radiograph.
        radiograph: Index of the radiograph in the dataset.
        identity: Hash of the dataset's content, 8 hexadecimal digits.
        patient_id: Patient ID in the exported file.
        patient_name: Patient's Name in the exported file.
        number: Number of the radiograph among those of its patient, counted from 1.
    """

    dataset: RadiographDataset
    radiograph: int
    identity: str
    patient_id: str = ""
    patient_name: str = ""
    number: int = 1

    @property
    def entry(self) -> RadiographEntry:
        """The dataset's entry for the radiograph."""
        return self.dataset.entries[self.radiograph]

    @property
    def synthetic(self) -> bool:
        """Whether the dataset states that it is synthetic; otherwise it may hold patients."""
        return self.dataset.is_synthetic

    @property
    def kind(self) -> str:
        """The word for tables: synthetic or real."""
        return "synthetic" if self.synthetic else "real"


def choose(folder: Path, *, per_class: int | None, seed: int, allow_real: bool) -> list[Case]:
    """Chooses radiographs of a dataset, in its order. The cases have no names yet.

    Args:
        folder: Folder of the dataset.
        per_class: Number of radiographs of each class to choose, None for all radiographs.
        seed: Seed of the choice.
        allow_real: Whether the dataset may hold radiographs of patients.

    Raises:
        UserError: There is no dataset or it is empty, it is not synthetic but has to be, or it has
            fewer than `per_class` radiographs of a class.
    """
    dataset = RadiographDataset(folder)
    content = json.dumps([dataset.provenance, [entry.sha256 for entry in dataset.entries]])
    identity = hashlib.sha256(content.encode()).hexdigest()[:8]
    cases = [Case(dataset, n, identity) for n in range(len(dataset.entries))]
    if not cases:
        raise UserError(f"{folder} holds no radiograph; name another dataset.")
    if not (allow_real or cases[0].synthetic):
        raise UserError(
            f"{folder} holds radiographs of patients, or does not say that it is synthetic; "
            "if they may leave this machine, add --allow_real."
        )
    if per_class is None:
        return cases
    chosen = []
    for label in LABELS:
        of_label = [case for case in cases if case.entry.label == label]
        if len(of_label) < per_class:
            raise UserError(
                f"{folder} has {len(of_label)} radiographs with label {label}, fewer than the "
                f"requested {per_class}; request fewer."
            )
        of_label.sort(key=lambda case: seeded_hash(seed, case.entry.sha256))
        chosen += of_label[:per_class]
    return sorted(chosen, key=lambda case: case.radiograph)


def name(cases: Sequence[Case]) -> list[Case]:
    """Names cases after their patients and datasets, so that Patient IDs are unique."""
    counts: Counter[str] = Counter()
    named = []
    for case in cases:
        patient_id = f"{case.identity}-{case.entry.patient}"
        counts[patient_id] += 1
        family = "SYNTHETIC" if case.synthetic else "PSEUDONYM"
        patient_name = f"{family}^{case.entry.patient}"
        named.append(
            dataclasses.replace(
                case,
                patient_id=patient_id,
                patient_name=patient_name,
                number=counts[patient_id],
            )
        )
    return named


def blind(cases: Sequence[Case], key: Callable[[str, str], str]) -> list[Case]:
    """Numbers cases in a pseudorandom order, each as a separate patient.

    Args:
        cases: Cases without names.
        key: A function from the kind and the value of an identifier to a keyed hash; see
            `cohort.Pseudonyms`.
    """
    by_hash = {key("order", f"{case.identity} {case.entry.name}"): case for case in cases}
    # Two studies in one PACS must not share patients.
    study = key("study", " ".join(sorted(by_hash)))[:6].upper()
    return [
        dataclasses.replace(
            by_hash[digest],
            patient_id=f"{study}-{n:05d}",
            patient_name=f"STUDY {study}^CASE {n:05d}",
        )
        for n, digest in enumerate(sorted(by_hash), start=1)
    ]


def file_name(number: int, suffix: str) -> str:
    """Name of a case's file, counted from 1, so that paths reveal nothing of a dataset."""
    return f"{number:05d}.{suffix}"


def table(cases: Sequence[Case]) -> str:
    """A CSV table that maps each case of a DICOM export to its radiograph."""
    rows = (
        (file_name(n, "dcm"), c.patient_id, c.dataset.folder, c.entry.name, c.entry.label, c.kind)
        for n, c in enumerate(cases, start=1)
    )
    return _csv(_COLUMNS, rows)


def label_table(cases: Sequence[Case]) -> str:
    """The label table of a PNG export: what `femur ingest` reads, and further columns.

    These are the split by patient, pixel spacing in mm with its source, kind (synthetic or real),
    the radiograph's name in its dataset, and all columns that ingestion kept.
    """
    own = [
        {"path": file_name(n, "png"), "patient_id": case.patient_id}
        | {name: getattr(case.entry, name) for name in _FACTS}
        | {"kind": case.kind, "radiograph": case.entry.name}
        for n, case in enumerate(cases, start=1)
    ]
    further = sorted({name for case in cases for name in case.entry.columns} - own[0].keys())
    rows = (
        [*row.values(), *map(c.entry.columns.get, further)]
        for row, c in zip(own, cases, strict=True)
    )
    return _csv([*own[0], *further], rows)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
