"""New films, read as the ingest reads radiographs, in a dataset of their own.

A film has a number, its place in the order of the paths, and neither a path nor an identifier of
its header gets into the dataset.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from femur_jax.data import spool
from femur_jax.data.cohort import LabelRow
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.data.table_file import read_table
from femur_jax.errors import UserError
from femur_jax.ingest.pipeline import Limits
from femur_jax.ingest.reader import files_in, read_radiograph
from femur_jax.ingest.rejection import RejectedFileError
from femur_jax.ingest.workers import number_of_workers, run_in_workers
from femur_jax.progress import Progress

ACCEPTED = "accepted"
_COLUMNS = ("path", "patient_id")
_LIMITS = Limits()


@dataclass(frozen=True)
class Film:
    """A file that may be a radiograph.

    Attributes:
        path: Path of the file.
        name: The path as the table of patients writes it.
        patient: Number of the patient, counted from 1; None where no table gives a patient.
        hospital: Name of the hospital in the table, "" where it gives none.
    """

    path: Path
    name: str
    patient: int | None = None
    hospital: str = ""


@dataclass(frozen=True)
class Read:
    """Films that were read.

    Attributes:
        dataset: Dataset of the accepted films, in order; their labels mean nothing.
        codes: ACCEPTED or the code of the rejection of each film.
        polarity: Whether bone is bright in each accepted film, see `ingest.polarity`.
    """

    dataset: RadiographDataset
    codes: list[str]
    polarity: list[str]


def find_films(inputs: Sequence[Path], table: Path | None = None) -> list[Film]:
    """Files and the files in folders and below, with their patients.

    Args:
        inputs: Files and folders.
        table: CSV file with the columns path, patient_id and, where known, hospital. It may lie in
            a folder of films. Paths are relative to the folder where one folder is the only input,
            and as they are on the command line otherwise.

    Raises:
        UserError: A path does not exist, there is no file, or the table is not one of these files.
    """
    rows = _patients(table) if table else {}
    paths: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise UserError("There is no file or folder at one of the given paths; correct it.")
        paths += files_in(path) if path.is_dir() else [path]
    paths = [path for path in dict.fromkeys(paths) if path != table]
    if not paths:
        raise UserError("The folder of films holds no file; name files, or the folder of films.")
    base = inputs[0] if len(inputs) == 1 and inputs[0].is_dir() else None
    names = [(path.relative_to(base) if base else path).as_posix() for path in paths]
    known = [rows[name]["patient_id"] for name in names if name in rows]
    if table and not known:
        raise UserError(
            "The table of patients names none of the films; write each path as it is relative to "
            "the folder of films."
        )
    numbers = {patient: n for n, patient in enumerate(dict.fromkeys(known), start=1)}
    return [
        Film(path, name, numbers[rows[name]["patient_id"]], rows[name].get("hospital", ""))
        if name in rows
        else Film(path, name)
        for path, name in zip(paths, names, strict=True)
    ]


def _patients(table: Path) -> dict[str, dict[str, str]]:
    """Rows of the table of patients by their paths."""
    if not table.is_file():
        raise UserError("There is no table of patients at the given path; correct the path.")
    read = read_table(table, (*_COLUMNS, "hospital"))
    if missing := [name for name in _COLUMNS if name not in read.columns]:
        raise UserError(f"The table of patients has no column {missing[0]!r}; add it.")
    for line, row in read.rows:
        if not row["patient_id"]:
            raise UserError(
                f"The table of patients, line {line}: patient_id is empty; fill it in or delete "
                "the line."
            )
    return {row["path"].removeprefix("./"): row for _, row in read.rows}


@dataclass(frozen=True)
class _Job:
    path: Path
    number: int
    patch: int
    spool: Path


def read_films(films: Sequence[Film], folder: Path, *, patch: int, workers: int | None) -> Read:
    """Reads films in worker processes, with the ingest's readers and limits.

    Args:
        films: Files to read.
        folder: Folder of the new dataset.
        patch: Side of a tile in pixels, that of the classifier's dataset.
        workers: Number of processes, one per core by default.

    Raises:
        UserError: No file is a radiograph that can be read.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        jobs = [_Job(f.path, n, patch, Path(name) / str(n)) for n, f in enumerate(films, start=1)]
        results = run_in_workers(
            _read,
            jobs,
            workers=number_of_workers(workers),
            memory=_LIMITS.memory,
            seconds=_LIMITS.seconds,
        )
        codes = list(Progress(results, "read", len(jobs), unit="file"))
        if ACCEPTED not in codes:
            counts = ", ".join(f"{code}: {n}" for code, n in Counter(codes).most_common())
            raise UserError(
                f"No film can be read ({counts}); docs/quarantine.md explains the codes and what "
                "to ask the hospital for."
            )
        polarity = []
        with DatasetWriter(folder, patch=patch, provenance={"kind": "real"}) as writer:
            for job, code in zip(jobs, codes, strict=True):
                if code == ACCEPTED:
                    facts = spool.read_facts(job.spool)
                    assert facts is not None, "the worker has written it"
                    writer.add(spool.read_encoded(job.spool, facts), "test")
                    polarity.append(facts.polarity)
    return Read(RadiographDataset(folder), codes, polarity)


def _read(job: _Job) -> str:
    """Reads one file in a worker process and stores it in the spool."""
    name = str(job.number)
    row = LabelRow(0, name, name, "", LABELS[0], "unknown", "unknown")
    try:
        facts, encoded = read_radiograph(job.path, row, _numbers_alone, job.patch)
    except RejectedFileError as error:
        return error.code
    spool.write(job.spool, facts, encoded)
    return ACCEPTED


def _numbers_alone(kind: str, identifier: str) -> str:
    """Drops all identifiers of a header."""
    return identifier if kind in ("file", "patient") else ""
