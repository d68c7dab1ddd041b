"""The cohort: label table, pseudonyms, and splits by patient and hospital."""

import functools
import hashlib
import hmac
import re
import secrets
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from femur_jax.data.columns import column_numbers
from femur_jax.data.radiograph import LABELS, LATERALITIES, VIEWS
from femur_jax.data.table_file import SEPARATORS, Table, read_table
from femur_jax.errors import UserError
from femur_jax.files import write_atomically

SPLITS = ("train", "validation", "test")
_COLUMNS = ("path", "patient_id", "hospital", "label")
_OPTIONAL = {"view": VIEWS, "laterality": LATERALITIES}


@dataclass(frozen=True)
class LabelRow:
    """One line of the label table: a file and the hospital's statements about it."""

    line: int
    path: str
    patient_id: str
    hospital: str
    label: str
    view: str
    laterality: str
    columns: dict[str, float | None] = field(default_factory=dict)
    """Values of further columns by name, None where the cell is empty."""


def read_labels(
    labels: Path, folder: Path, columns: Sequence[str] = (), *, outside: bool = False
) -> list[LabelRow]:
    """Reads and checks labels.csv.

    Messages name lines and never their content, and neither path: a folder may be named after a
    patient.

    Args:
        labels: CSV file with the columns path, patient_id, hospital, label and, where known,
            view and laterality; see `table_file.read_table`. Paths are relative to `folder`.
        folder: Folder of the radiographs.
        columns: Further columns to read as numbers; see `column_numbers`.
        outside: Whether paths may lead out of the folder.

    Raises:
        UserError: A folder, file or column is missing, a label, view or laterality is unknown, a
            further column does not hold suitable numbers, a path leads out of the folder, a file
            is listed twice, or a patient has both labels.
    """
    try:
        is_empty = not any(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "There is no folder of radiographs at the given path; correct the path."
        ) from None
    except OSError as error:
        raise UserError(
            f"The folder of radiographs cannot be read ({error.strerror}); name one that you may "
            "read."
        ) from None
    if not _is_file(labels):
        raise UserError(
            "There is no label table at the given path, or no access to it; name or write one with "
            f"the columns {', '.join(_COLUMNS)}."
        )
    if is_empty:
        raise UserError("The folder of radiographs is empty; put the radiographs there.")
    entries = _read_table(labels, folder, columns, outside)
    if not entries:
        raise UserError("The label table lists no radiograph; add a line for each file.")
    files: dict[str, LabelRow] = {}
    patients: dict[str, LabelRow] = {}
    for entry in entries:
        other = files.setdefault(entry.path, entry)
        if other is not entry:
            raise UserError(
                f"The label table lists one file twice, in lines {other.line} and {entry.line}; "
                "keep one of them."
            )
        other = patients.setdefault(entry.patient_id, entry)
        if other.label != entry.label:
            raise UserError(
                f"The label table gives one patient both labels, in lines {other.line} and "
                f"{entry.line}; keep one label, or give the two femurs different patient ids."
            )
    return entries


def _read_table(
    labels: Path, folder: Path, columns: Sequence[str], outside: bool
) -> list[LabelRow]:
    needed = (*_COLUMNS, *columns)
    table = read_table(labels, (*needed, *_OPTIONAL))
    missing = [c for c in needed if c not in table.columns]
    if missing:
        raise UserError(
            f"The label table has no column {missing[0]!r}; it needs {', '.join(needed)}."
        )
    known = [c for c in columns if c in _COLUMNS or c in _OPTIONAL]
    if known:
        raise UserError(
            f"The column {known[0]!r} is always read; name only further columns in --columns."
        )
    _require_labels(table)
    within = None if outside else folder.resolve()
    entries = [_entry(row, line, folder, within) for line, row in table.rows]
    for column in columns:
        for entry, number in zip(entries, column_numbers(table, column), strict=True):
            entry.columns[column] = number
    if not table.is_plain:
        signs = {table.decimal_sign(column) for column in columns}
        commas = ", with decimal commas" if "," in signs else ""
        print(
            f"femur_jax: the label table is read as {table.encoding}, separated by "
            f"{SEPARATORS.get(table.separator, repr(table.separator))}{commas}.",
            file=sys.stderr,
        )
    return entries


def _require_labels(table: Table) -> None:
    """Checks that no label is empty, as all are in a table that was drafted from headers."""
    empty = [line for line, row in table.rows if not row["label"] and row["path"]]
    if empty:
        raise UserError(
            f"The label table, line {empty[0]}: label is empty, as in {len(empty)} of "
            f"{len(table.rows)} lines; write {' or '.join(LABELS)} in each, or delete the line."
        )


def _entry(row: dict[str, str], line: int, folder: Path, within: Path | None) -> LabelRow:
    where = f"The label table, line {line}"
    value = {key: row.get(key, "") for key in (*_COLUMNS, *_OPTIONAL)}
    for column in _COLUMNS:
        if not value[column]:
            raise UserError(f"{where}: {column} is empty; fill it in or delete the line.")
    if re.fullmatch(r"\d[.,]?\d*E\+\d+", value["patient_id"], re.IGNORECASE):
        raise UserError(
            f"{where}: a spreadsheet has rounded patient_id; format the column as text and write "
            "the whole number."
        )
    if value["label"] not in LABELS:
        raise UserError(f"{where}: the label is neither AFF nor NFF; write one of them.")
    for column, allowed in _OPTIONAL.items():
        value[column] = value[column] or "unknown"
        if value[column] not in allowed:
            raise UserError(
                f"{where}: {column} is not known; write {', '.join(allowed[1:])} or leave it empty."
            )
    path = folder / value["path"]
    if not _is_file(path):
        raise UserError(
            f"{where}: its file is not in the folder of radiographs; correct or delete the line."
        )
    if within and within not in path.resolve().parents:
        raise UserError(
            f"{where}: its path leads out of the folder of radiographs; move the file there, or "
            "add --outside if all such files belong to this dataset."
        )
    return LabelRow(line=line, columns={}, **value)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for the file system; the error would quote it
        return False


@functools.cache  # a study reads its key several times
def _report_open_key(key_file: Path) -> None:
    print(
        f"femur_jax: others can read the key {key_file}, with which they can test whose "
        "radiographs these are; make it private with chmod 600.",
        file=sys.stderr,
    )


class Pseudonyms:
    """Replaces identifiers by keyed hashes, which nobody can invert or test without the key."""

    def __init__(self, key_file: Path):
        """Reads the key, or creates one that only its owner can read.

        A key that others can read is used, and one line on stderr says so, once in a process.

        Raises:
            UserError: The file is not a key.
        """
        if not key_file.exists():
            # Of several processes that create the key, all read the one that came first.
            write_atomically(key_file, secrets.token_bytes(32), replace=False)
        self._key = key_file.read_bytes() if key_file.is_file() else b""
        if len(self._key) != 32:
            raise UserError(
                f"{key_file} is not a key of 32 bytes; restore it, or name a new file to create "
                "another key."
            )
        if key_file.stat().st_mode & 0o077:
            _report_open_key(key_file)

    def __call__(self, kind: str, identifier: str) -> str:
        """The pseudonym (16 hexadecimal digits) of an identifier of a kind, such as 'patient'."""
        message = f"{kind}\0{identifier}".encode(errors="surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:16]


def split_patients(
    labels: Mapping[str, str],
    *,
    fractions: Sequence[float],
    seed: int,
    connected: Iterable[Collection[str]] = (),
) -> dict[str, str]:
    """Assigns every patient to a split, stratified by label.

    Args:
        labels: Label of each patient. The split follows from the seed and the patients' names,
            which therefore must be such as nobody can guess; see `ingest.content`.
        fractions: Shares of validation and test, 0 for none; the rest is for training.
        seed: Seed of the random split.
        connected: Disjoint sets of patients who share a picture. Each set goes into one split and
            counts as one patient, with an atypical fracture if one of its patients has it.

    Returns:
        The split of each patient.

    Raises:
        UserError: A share is out of range, or a requested split would hold fewer than 2 patients
            of a class.
    """
    if not all(0.0 <= share <= 1.0 for share in fractions):
        raise UserError(
            "The shares of validation and test must lie between 0 and 1; "
            f"they are {' and '.join(map(str, fractions))}."
        )
    groups = {patient: [patient] for patient in labels}
    for patients in connected:
        first, *others = sorted(patients)
        groups[first] += others
        for other in others:
            del groups[other]
    split = {}
    for label in LABELS:
        members = [
            first
            for first, group in groups.items()
            if label == max((labels[p] for p in group), key=LABELS.index)
        ]
        order = sorted(members, key=lambda p: seeded_hash(seed, p))
        counts = [round(fraction * len(order)) for fraction in fractions]
        counts.insert(0, len(order) - sum(counts))
        wanted = (1 - sum(fractions), *fractions)
        for name, share, count in zip(SPLITS, wanted, counts, strict=True):
            if count < 0 or (share != 0 and count < 2):
                raise UserError(
                    f"{len(members)} patients with label {label} leave {max(count, 0)} for the "
                    f"{name} split, which needs 2; add patients or change the split's fractions."
                )
            for first in order[:count]:
                split |= dict.fromkeys(groups[first], name)
            order = order[count:]
    return split


def split_hospitals(
    patients: Mapping[str, Mapping[str, str]], *, fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Assigns whole hospitals to splits.

    Hospitals are taken in a seeded order, first for the test split and then for validation,
    until each split holds its share of the patients and 2 of each class.

    Args:
        patients: Labels by patient by hospital. The split follows from the seed and the hospitals'
            names; see `split_patients`.
        fractions: Shares of validation and test, 0 for none; the rest is for training.
        seed: Seed of the random order.

    Returns:
        The split of each hospital; empty where a split would lack a class.
    """
    total = sum(map(len, patients.values()))
    order = sorted(patients, key=lambda hospital: seeded_hash(seed, hospital))
    split = {}
    for name, fraction in (("test", fractions[1]), ("validation", fractions[0]), ("train", 1.0)):
        held: Counter[str] = Counter()
        enough = fraction == 0
        while order and not (enough and name != "train"):
            hospital = order.pop()
            split[hospital] = name
            held.update(patients[hospital].values())
            several = all(held[label] >= 2 for label in LABELS)
            enough = several and held.total() >= fraction * total
        if fraction and not all(held[label] >= 2 for label in LABELS):
            return {}
    return split


def fold_splits(by: str) -> list[str]:
    """The split of each of n folds in the run 'k/n': fold k is tested, the next one validates.

    Raises:
        UserError: The text is not of this form, or there are fewer than three folds.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", by)
    k, folds = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= k <= folds or folds < 3:
        raise UserError(
            f"Unknown split by {by!r}; write patient, hospital, or one of at least three folds, "
            "such as 1/5."
        )
    splits = dict.fromkeys(range(folds), "train") | {k - 1: "test", k % folds: "validation"}
    return list(splits.values())


def deal_folds(labels: Mapping[str, str], folds: int) -> dict[str, int]:
    """Assigns patients to folds in turn, stratified by label.

    The sizes of any two folds differ by at most one patient, in total and in each class.

    Args:
        labels: Label of each patient, in the order in which they are dealt.
        folds: Number of folds.

    Returns:
        The fold of each patient, from 0.

    Raises:
        UserError: There are too few patients for two of each class in every fold.
    """
    counts = Counter(labels.values())
    for label in LABELS:
        if counts[label] < 2 * folds:
            raise UserError(
                f"{counts[label]} patients with label {label} are too few for {folds} folds, which "
                "need 2 each; use fewer folds."
            )
    order = sorted(labels, key=lambda p: LABELS.index(labels[p]))  # stable
    return {patient: n % folds for n, patient in enumerate(order)}


def seeded_hash(seed: int, text: str) -> str:
    """A sort key for a random order that depends only on the seed and the texts."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()
