"""A trial of the ingest on a hospital's own files, which keeps nothing but codes and numbers.

Files are read in the worker processes of the ingest, under the same limits. Nothing stops at a file
that cannot be read.
"""

import contextlib
import csv
import ctypes
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from femur_jax.data.cohort import LabelRow
from femur_jax.data.radiograph import LABELS
from femur_jax.data.table_file import as_text
from femur_jax.errors import UserError
from femur_jax.files import write_atomically
from femur_jax.ingest import dcmtk
from femur_jax.ingest.pipeline import Limits
from femur_jax.ingest.reader import files_in, is_picture, read_picture, read_radiograph
from femur_jax.ingest.rejection import RejectedFileError
from femur_jax.ingest.workers import number_of_workers, run_in_workers
from femur_jax.progress import Progress

ACCEPTED = "accepted"
EQUAL = 1.0
"""Greatest difference in grey levels of 0..255 at which two pictures count as equal."""
COLUMNS = ("file", "code", "peak_mib", "levels_from_dcmtk", "path")
_PATCH = 256
_NO_LABELS = LabelRow(0, "", "", "", LABELS[0], "unknown", "unknown")


@dataclass(frozen=True)
class Checked:
    """The result of one file.

    Attributes:
        code: ACCEPTED or the code of a rejection.
        peak_mib: Peak memory of the worker process in MiB, None where the file ended its process
            or exceeded a limit.
        levels_from_dcmtk: Greatest difference to dcmtk's picture in grey levels of 0..255, None
            where there is no such picture.
    """

    code: str
    peak_mib: int | None = None
    levels_from_dcmtk: float | None = None


def check(
    folder: Path,
    table: Path | None = None,
    *,
    workers: int | None = None,
    limits: Limits,
) -> list[Checked]:
    """Reads each file of a folder as the ingest does, and compares accepted pictures with dcmtk's.

    Args:
        folder: Folder of the radiographs, which is searched with all folders below it.
        table: Path of a new CSV file with the results and the path of each file, which only its
            owner can read; none is written by default.
        workers: Number of reading processes, by default one per core.
        limits: Limits for reading one file.

    Returns:
        The results in the order of the paths.

    Raises:
        UserError: There is no such folder, it is empty, or the table exists.
    """
    processes = number_of_workers(workers)
    files = files_in(folder)
    if not files:
        raise UserError("The folder to check holds no file; name the folder of radiographs.")
    if table is not None and table.exists():
        raise UserError("The table of the files exists; remove it or name another file.")
    results = try_files(files, processes, limits)
    results = _compared(files, results, processes, limits)
    if table is not None:
        write_atomically(table, _csv(folder, files, results))
    return results


def try_files(files: Sequence[Path], workers: int, limits: Limits) -> list[Checked]:
    """Reads each file as the ingest does and encodes its pyramid, without a comparison."""
    read = run_in_workers(
        _read, files, workers=workers, memory=limits.memory, seconds=limits.seconds
    )
    bar = Progress(read, "check", len(files), unit="file")
    return [Checked(result) if isinstance(result, str) else result for result in bar]


def _read(path: Path) -> Checked:
    """Reads one file in a worker process, as the ingest does."""
    # Otherwise the peak is that of all files so far.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    try:
        read_radiograph(path, _NO_LABELS, _no_pseudonym, _PATCH)
        code = ACCEPTED
    except RejectedFileError as error:
        code = error.code
    # getrusage would give the peak of the process that started this one.
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return Checked(code, int(peak) >> 10)


def _compared(
    files: Sequence[Path], results: Sequence[Checked], workers: int, limits: Limits
) -> list[Checked]:
    """The results with the differences to dcmtk, whose programs get the same limits each."""
    compared = list(results)
    if not dcmtk.programs():
        return compared
    shown = [
        n
        for n, (path, result) in enumerate(zip(files, results, strict=True))
        if result.code == ACCEPTED and not is_picture(path)
    ]
    differences = run_in_workers(
        _difference,
        [(files[n], limits.seconds) for n in shown],
        workers=workers,
        memory=limits.memory,
        seconds=(1 + len(dcmtk.programs())) * limits.seconds,
    )
    bar = Progress(differences, "compare", len(shown), unit="file")
    for n, levels in zip(shown, bar, strict=True):
        if not isinstance(levels, str):  # the code of a failure, such as of too little memory
            compared[n] = Checked(results[n].code, results[n].peak_mib, levels)
    return compared


def _difference(job: tuple[Path, float]) -> float | None:
    path, seconds = job
    return dcmtk.difference(path, read_picture(path, _no_pseudonym), seconds)


def _no_pseudonym(kind: str, name: str) -> str:
    return ""


def _csv(folder: Path, files: Sequence[Path], results: Sequence[Checked]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for n, (path, result) in enumerate(zip(files, results, strict=True), start=1):
        levels = result.levels_from_dcmtk
        writer.writerow(
            [
                n,
                result.code,
                "" if result.peak_mib is None else result.peak_mib,
                "" if levels is None else f"{levels:.3g}",
                as_text(path.relative_to(folder).as_posix()),
            ]
        )
    return text.getvalue().encode("utf-8-sig", "surrogateescape")
