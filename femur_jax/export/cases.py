"""Which radiographs are exported, and under which names."""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from femur_jax.data.cohort import seeded_hash
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import RadiographEntry
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

_COLUMNS = ("file", "patient_id", "dataset", "radiograph", "label", "kind")


@dataclass(frozen=True)
class Case:
    """One radiograph to be exported.

    Attributes:
        dataset: It belongs to.
        radiograph: Its position there.
        identity: Of the dataset, 8 hexadecimal digits that follow from what it holds.
        patient_id: The Patient ID that it gets.
        patient_name: The Patient's Name that it gets.
        number: Which of that patient's radiographs it is, from 1.
    """

    dataset: RadiographDataset
    radiograph: int
    identity: str
    patient_id: str = ""
    patient_name: str = ""
    number: int = 1

    @property
    def entry(self) -> RadiographEntry:
        """What the dataset says of it."""
        return self.dataset.entries[self.radiograph]

    @property
    def synthetic(self) -> bool:
        """Whether its dataset says so; one that says nothing may be of patients."""
        return self.dataset.provenance.get("kind") == "synthetic"


def choose(folder: Path, *, per_class: int | None, seed: int, allow_real: bool) -> list[Case]:
    """Takes radiographs from a dataset, in its order; they have no names yet.

    Raises:
        UserError: There is no dataset or it is empty, it is not synthetic though it should be, or
            it has fewer radiographs of a class than asked for.
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
            "if they may leave this machine, add --allow-real."
        )
    if per_class is None:
        return cases
    chosen = []
    for label in LABELS:
        own = [case for case in cases if case.entry.label == label]
        if len(own) < per_class:
            raise UserError(
                f"{folder} has {len(own)} radiographs with label {label}, and {per_class} are "
                "asked for; ask for fewer."
            )
        chosen += sorted(own, key=lambda case: seeded_hash(seed, case.entry.name))[:per_class]
    return sorted(chosen, key=lambda case: case.radiograph)


def name(cases: Sequence[Case]) -> list[Case]:
    """Names cases after their patients, and those after their datasets too, to be unique."""
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
    """Numbers cases in an order that means nothing, each a patient.

    Args:
        cases: Without names.
        key: Replaces an identifier of a kind by a keyed hash; see `cohort.Pseudonyms`.
    """
    order = {key("order", f"{case.identity} {case.entry.name}"): case for case in cases}
    # Two studies in one PACS shall not share patients.
    study = key("study", " ".join(sorted(order)))[:6].upper()
    return [
        dataclasses.replace(
            order[place],
            patient_id=f"{study}-{n:05d}",
            patient_name=f"STUDY {study}^CASE {n:05d}",
        )
        for n, place in enumerate(sorted(order), start=1)
    ]


def file_name(number: int) -> str:
    """Of the file of a case, counted from 1: nothing of a dataset gets into a path."""
    return f"{number:05d}.dcm"


def table(cases: Sequence[Case]) -> str:
    """CSV that tells which case is which radiograph."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for n, case in enumerate(cases, start=1):
        kind = "synthetic" if case.synthetic else "real"
        folder, entry = case.dataset.folder, case.entry
        writer.writerow([file_name(n), case.patient_id, folder, entry.name, entry.label, kind])
    return text.getvalue()


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # left by a run that was killed
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
