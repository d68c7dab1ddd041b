"""Drafts a label table from DICOM headers, in which the hospital fills in the labels."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import MediaStorageDirectoryStorage

from femur_jax.data.table_file import as_text
from femur_jax.errors import UserError
from femur_jax.files import write_atomically
from femur_jax.ingest.dicom import patient_age
from femur_jax.ingest.reader import files_in, is_picture
from femur_jax.ingest.workers import number_of_workers, run_in_workers
from femur_jax.progress import Progress

COLUMNS = ("path", "patient_id", "hospital", "label", "view", "laterality", "age", "sex")
_SEPARATOR = ";"  # Excel in Sweden shows a table between commas as a single column
_KEYWORDS = (
    *("PatientID", "InstitutionName", "ViewPosition", "ViewCodeSequence", "Rows"),
    *("Laterality", "ImageLaterality", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate"),
)
_POSITIONS = {"AP": "AP", "LL": "lateral", "RL": "lateral", "LAT": "lateral"}
"""Views by View Position (PS3.3 C.8.1.2, C.8.11.5); LAT is what some devices write."""
_VIEW_CODES = {
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399067008", "399173006", "399198007", "R-10236", "R-10232"), "lateral"),
}
"""Views by the value of a code of PS3.16 CID 4010, as SNOMED CT and as SNOMED RT."""


@dataclass(frozen=True)
class Drafted:
    """Numbers of files: those in the table, of them without a readable header, and others."""

    lines: int
    headerless: int
    left_out: int


def draft_labels(
    folder: Path, table: Path, *, workers: int | None = None, memory: int, seconds: float
) -> Drafted:
    """Writes a label table of a folder's radiographs whose label is empty.

    The columns are those of COLUMNS. patient_id and hospital are the header's Patient ID and
    Institution Name: the table is for the hospital, and only its owner can read the file. A cell
    is empty where the header says nothing or nothing that `cohort.read_labels` takes. Files of
    other formats and directories (DICOMDIR) are left out.

    Args:
        folder: Folder of the radiographs, which is searched with all folders below it.
        table: Path of the new table.
        workers: Number of reading processes, by default one per core.
        memory: Bytes that reading one header may take.
        seconds: Time that reading one header may take.

    Raises:
        UserError: There is no such folder or no radiograph in it, or the table exists.
    """
    files = files_in(folder)
    if table.exists():
        raise UserError(
            "The label table exists and may hold labels; move it away or name another file."
        )
    kinds = [_kind(path) for path in files]
    films = [path for path, kind in zip(files, kinds, strict=True) if kind == "dicom"]
    read = run_in_workers(
        _header, films, workers=number_of_workers(workers), memory=memory, seconds=seconds
    )
    headers = dict(zip(films, Progress(read, "headers", len(films)), strict=True))
    rows, headerless = [], 0
    for path, kind in zip(files, kinds, strict=True):
        name = path.relative_to(folder).as_posix()
        header = headers.get(path, {})
        if kind == "other" or header is None or not _is_text(name):
            continue
        if not isinstance(header, dict):  # the code of a failure
            header = {}
        headerless += not any(header.values())
        # The path must stay a path, which an apostrophe would change.
        name = name if as_text(name) == name else f"./{name}"
        rows.append([name, *(as_text(header.get(column, "")) for column in COLUMNS[1:])])
    if not rows:
        raise UserError("The folder holds no radiograph; name the folder of radiographs.")
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=_SEPARATOR).writerows([COLUMNS, *rows])
    # Excel needs the mark to recognise UTF-8.
    write_atomically(table, text.getvalue().encode("utf-8-sig"))
    return Drafted(len(rows), headerless, len(files) - len(rows))


def _kind(path: Path) -> str:
    """'dicom', 'picture' by its suffix, or 'other'."""
    if is_picture(path):
        return "picture"
    try:
        with path.open("rb") as file:
            return "dicom" if file.read(132)[128:] == b"DICM" else "other"
    except OSError:
        return "other"


def _is_text(name: str) -> bool:
    return name.isprintable()  # a name that is not UTF-8 has lone surrogates, which are not


def _header(path: Path) -> dict[str, str] | None:
    """The cells that a file's header fills; None for a directory of DICOM files."""
    ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
    if ds.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    if not ds.get("Rows"):  # no image, or cut off, perhaps within a value
        return {}
    side, sex = _text(ds, "ImageLaterality") or _text(ds, "Laterality"), _text(ds, "PatientSex")
    age = patient_age(ds)
    return {
        "patient_id": _text(ds, "PatientID"),
        "hospital": _text(ds, "InstitutionName"),
        "view": _view(ds),
        "laterality": side if side in ("L", "R") else "",
        "age": str(age) if age else "",
        "sex": sex if sex in ("F", "M") else "",
    }


def _text(ds: Dataset, keyword: str) -> str:
    value: Any = ds.get(keyword)
    parts: Sequence[Any] = value if isinstance(value, MultiValue) else [value or ""]
    return " ".join("\\".join(map(str, parts)).split())


def _view(ds: Dataset) -> str:
    codes = [str(item.get("CodeValue", "")) for item in ds.get("ViewCodeSequence") or ()]
    named = [_VIEW_CODES[code] for code in codes if code in _VIEW_CODES]
    return named[0] if named else _POSITIONS.get(_text(ds, "ViewPosition"), "")
