"""Radiographs whose bytes were changed or cut off, and what reading them gives."""

import multiprocessing
import re
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.machine import ROOT, cpu
from benchmarks.radiographs import picture, write
from benchmarks.records import Goal, Result, measurement
from femur_jax.ingest.dicom import Picture, read_dicom
from femur_jax.ingest.rejection import RejectedFileError
from femur_jax.phantom.hospital import COMMON_SYNTAXES, RARE_SYNTAXES

_NUMBER = 2000
_SECONDS = 20.0  # reading that takes longer counts as a hang
_MEGAPIXELS = 0.08
_REAL = ROOT.parent / "shared" / "data" / "radiographs" / "dicom"


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One time in four the file cut off anywhere, else with one to eight bytes changed."""
    if rng.random() < 0.25:
        return data[: rng.integers(len(data))]
    changed = np.frombuffer(data, np.uint8).copy()
    positions = rng.integers(len(data), size=rng.integers(1, 9))
    changed[positions] ^= rng.integers(1, 256, size=len(positions), dtype=np.uint8)
    return changed.tobytes()


def outcome(path: Path, original: Picture) -> str:
    """'rejected', 'unchanged', or what differs from the original: 'pixels' or other 'facts'."""
    try:
        read = read_dicom(path, _no_pseudonym)
    except RejectedFileError:
        return "rejected"
    if not np.array_equal(read.pixels, original.pixels):
        return "pixels"
    facts = ("crop", "spacing_mm", "spacing_source", "source")
    same = all(getattr(read, fact) == getattr(original, fact) for fact in facts)
    return "unchanged" if same else "facts"


@measurement("of 2000", Goal("<=", 0.0))
def undetected_mutations() -> Result:
    """Damaged radiographs on which reading crashed or took longer than 20 seconds.

    Files of every transfer syntax, simulated and real (where the real ones are available), are
    cut off anywhere or have one to eight bytes changed. Each is read in a separate process. The
    details count, for each transfer syntax, those that were rejected, read with the original's
    pixels, and read with other pixels or other facts, which no reader can notice.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    cut: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        files = list(_files(Path(folder)))
        reader = _Reader()
        peak = 0
        for number in range(_NUMBER):
            path, original = files[number % len(files)]
            rng = np.random.default_rng([7, number])
            damaged = Path(folder) / "damaged"
            whole = path.read_bytes()
            damaged.write_bytes(mutated(whole, rng))
            result, peak_now = reader.read(damaged, path)
            peak = max(peak, peak_now)
            is_cut = damaged.stat().st_size < len(whole)
            (cut if is_cut else counts[original.source.syntax])[result] += 1
        reader.stop()
    total = sum(counts.values(), cut)
    return Result(
        value=float(total["crashed"] + total["hung"]),
        device=cpu(),
        details={
            "cut off": dict(cut),
            **{f"changed, {syntax}": dict(counts[syntax]) for syntax in sorted(counts)},
            "files": len(files),
            "peak memory of the reading process, MiB": peak,
        },
    )


def _files(folder: Path) -> Iterator[tuple[Path, Picture]]:
    """A simulated picture in every syntax, and the real radiographs where they are available."""
    for number, syntax in enumerate((*COMMON_SYNTAXES, *RARE_SYNTAXES)):
        path = folder / str(number)
        write(path, picture(_MEGAPIXELS, seed=0), syntax)
        yield path, _read(path)
    for path in sorted(_REAL.glob("*.dcm")):
        try:
            yield path, _read(path)
        except RejectedFileError:
            continue  # malformed on purpose


def _read(path: Path) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_dicom(path, _no_pseudonym)


def _no_pseudonym(kind: str, name: str) -> str:
    return ""


class _Reader:
    """A process that reads files, started again when a file kills it."""

    def __init__(self):
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, path: Path, original: Path) -> tuple[str, int]:
        """The outcome, which may be 'crashed' or 'hung', and the process's peak memory in MiB."""
        self._pipe.send((path, original))
        try:
            if self._pipe.poll(_SECONDS):
                return self._pipe.recv()
            failure = "hung"
        except EOFError:
            failure = "crashed"
        self.stop()
        self._start()
        return failure, 0

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    originals: dict[Path, Picture] = {}
    while True:
        path, original = pipe.recv()
        if original not in originals:
            originals[original] = _read(original)
        result = outcome(path, originals[original])
        # getrusage would give the peak of the process that started this one.
        [peak] = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        pipe.send((result, int(peak) // 1024))
