"""What becomes of radiographs whose bytes were changed or cut off."""

import multiprocessing
import re
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.machine import cpu
from benchmarks.measurements import Found
from femur_jax.ingest.dicom import Picture, read_dicom
from femur_jax.ingest.rejection import RejectedFileError
from tests.ingest.conftest import LOSSLESS, LOSSY, smooth_values, write_dicom

NUMBER = 2000
SECONDS = 20.0
"""Reading that takes longer counts as a hang."""

_REAL = Path(__file__).parents[2] / "shared" / "data" / "radiographs" / "dicom"


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One time in four the file cut off anywhere, else with one to eight bytes changed."""
    if rng.random() < 0.25:
        return data[: rng.integers(len(data))]
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(len(data), size=rng.integers(1, 9))
    changed[places] ^= rng.integers(1, 256, size=len(places), dtype=np.uint8)
    return changed.tobytes()


def outcome(path: Path, original: Picture) -> str:
    """'rejected', 'unchanged', or what is wrong: 'pixels' or other 'facts'."""
    try:
        picture = read_dicom(path, _no_pseudonym)
    except RejectedFileError:
        return "rejected"
    if not np.array_equal(picture.pixels, original.pixels):
        return "pixels"
    facts = ("crop", "spacing_mm", "spacing_source", "source")
    same = all(getattr(picture, fact) == getattr(original, fact) for fact in facts)
    return "unchanged" if same else "facts"


def undetected() -> Found:
    """Mutates radiographs of every transfer syntax and reads them in a process of its own."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    cut: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        files = list(_files(Path(folder)))
        reader = _Reader()
        peak = 0
        for number in range(NUMBER):
            path, original = files[number % len(files)]
            rng = np.random.default_rng([7, number])
            change = Path(folder) / "changed"
            whole = path.read_bytes()
            change.write_bytes(mutated(whole, rng))
            found, peak_now = reader.read(change, path)
            peak = max(peak, peak_now)
            is_cut = change.stat().st_size < len(whole)
            (cut if is_cut else counts[original.source.syntax])[found] += 1
        reader.stop()
    total = sum(counts.values(), cut)
    return Found(
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
    """A made-up picture in every syntax, and the real radiographs where they are."""
    for name, syntax in (LOSSLESS | LOSSY).items():
        bits = 8 if name == "JPEG baseline" else 12
        values = smooth_values(bits, shape=(300, 260))
        path = write_dicom(folder / name, values, syntax=syntax, bits=bits)
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
    """A process that reads files, started anew when one kills it."""

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
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
            found = "hung"
        except EOFError:
            found = "crashed"
        self.stop()
        self._start()
        return found, 0

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    originals: dict[Path, Picture] = {}
    while True:
        path, original = pipe.recv()
        if original not in originals:
            originals[original] = _read(original)
        found = outcome(path, originals[original])
        # getrusage would tell the peak of the process that started this one.
        [peak] = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        pipe.send((found, int(peak) // 1024))
