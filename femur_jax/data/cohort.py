"""Who is in the data: the label table, pseudonyms and splits by patient."""

import csv
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from femur_jax.data.radiograph import LABELS, LATERALITIES, VIEWS
from femur_jax.errors import UserError

SPLITS = ("train", "validation", "test")
_COLUMNS = ("path", "patient_id", "hospital", "label")
_OPTIONAL = {"view": VIEWS, "laterality": LATERALITIES}


@dataclass(frozen=True)
class Entry:
    """One line of the label table: a file and what the hospital says of it."""

    path: str
    patient_id: str
    hospital: str
    label: str
    view: str
    laterality: str


def read_labels(labels: Path, folder: Path) -> list[Entry]:
    """Reads and checks labels.csv.

    Args:
        labels: CSV file with the columns path, patient_id, hospital, label and, where known,
            view and laterality. Paths are relative to `folder`.
        folder: The folder of radiographs.

    Raises:
        UserError: A missing folder, file or column, an unknown label, view or laterality, a
            file named twice, or a patient with both labels.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give the folder of radiographs.")
    if not labels.is_file():
        raise UserError(
            f"There is no label table {labels}; write one with the columns {', '.join(_COLUMNS)}."
        )
    if not any(folder.iterdir()):
        raise UserError(f"The folder {folder} is empty; put the radiographs there.")
    try:
        with labels.open(newline="", encoding="utf-8-sig") as file:
            entries = _read_table(labels, file, folder)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{labels} is no CSV file in UTF-8; save it as such, separated by commas."
        ) from error
    if not entries:
        raise UserError(f"{labels} lists no radiograph; add a line for each file.")
    seen: set[str] = set()
    classes: dict[str, str] = {}
    for entry in entries:
        if entry.path in seen:
            raise UserError(f"{labels} names {entry.path} twice; keep one of the lines.")
        seen.add(entry.path)
        if classes.setdefault(entry.patient_id, entry.label) != entry.label:
            raise UserError(
                f"{labels} gives patient {entry.patient_id} both labels, AFF and NFF; "
                "keep one, or give the two femurs patient ids of their own."
            )
    return entries


def _read_table(labels: Path, file: TextIO, folder: Path) -> list[Entry]:
    reader = csv.DictReader(file)
    missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise UserError(
            f"{labels} has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)}, "
            "separated by commas."
        )
    return [_entry(row, f"{labels}, line {reader.line_num}", folder) for row in reader]


def _entry(row: dict[str, str | None], where: str, folder: Path) -> Entry:
    value = {key: (row.get(key) or "").strip() for key in (*_COLUMNS, *_OPTIONAL)}
    for column in _COLUMNS:
        if not value[column]:
            raise UserError(f"{where}: {column} is empty; fill it in or delete the line.")
    if value["label"] not in LABELS:
        raise UserError(f"{where}: the label is {value['label']!r}; write AFF or NFF.")
    for column, allowed in _OPTIONAL.items():
        value[column] = value[column] or "unknown"
        if value[column] not in allowed:
            raise UserError(
                f"{where}: {column} is {value[column]!r}; write {', '.join(allowed[1:])} "
                "or leave it empty."
            )
    if not (folder / value["path"]).is_file():
        raise UserError(
            f"{where}: there is no file {value['path']} in {folder}; correct or delete the line."
        )
    return Entry(**value)


class Pseudonyms:
    """Replaces identifiers by keyed hashes, which nobody can undo or test without the key."""

    def __init__(self, key_file: Path):
        """Reads the key, or makes one that only its owner can read.

        Raises:
            UserError: The file is no key.
        """
        try:
            descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
        self._key = key_file.read_bytes() if key_file.is_file() else b""
        if len(self._key) != 32:
            raise UserError(
                f"{key_file} is no key of 32 bytes; restore it, or name a new file for another key."
            )

    def __call__(self, kind: str, identifier: str) -> str:
        """The pseudonym (16 hexadecimal digits) of a patient, hospital or file."""
        message = f"{kind}\0{identifier}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:16]


def split_patients(
    entries: Sequence[Entry], *, fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Assigns every patient to a split, stratified by label.

    Args:
        entries: The label table.
        fractions: Shares of validation and test, 0 for none; the rest is for training.
        seed: Another seed gives another split.

    Returns:
        The split of each patient id.

    Raises:
        UserError: A split that is wanted would hold fewer than 2 patients of a class.
    """
    split = {}
    for label in LABELS:
        patients = {e.patient_id for e in entries if e.label == label}
        order = sorted(patients, key=lambda p: seeded_hash(seed, p))
        counts = [round(fraction * len(order)) for fraction in fractions]
        counts.insert(0, len(order) - sum(counts))
        wanted = (1 - sum(fractions), *fractions)
        for name, share, count in zip(SPLITS, wanted, counts, strict=True):
            if count < 0 or (share != 0 and count < 2):
                raise UserError(
                    f"{len(patients)} patients with label {label} leave {max(count, 0)} for the "
                    f"{name} split, which needs 2; add patients or change the split's fractions."
                )
            for patient in order[:count]:
                split[patient] = name
            order = order[count:]
    return split


def seeded_hash(seed: int, text: str) -> str:
    """An order that depends on nothing but the seed and the text."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()
