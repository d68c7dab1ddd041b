"""Damaged and faulty radiographs, and what reading them gives."""

import multiprocessing
import re
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from pydicom import uid
from pydicom.datadict import tag_for_keyword

from benchmarks.faults import FAULTS, Element, File, kinds, with_table
from benchmarks.machine import ROOT, cpu
from benchmarks.radiographs import picture, write
from benchmarks.records import Goal, Result, measurement
from femur_jax.ingest.dicom import Picture, read_dicom
from femur_jax.ingest.rejection import RejectedFileError
from femur_jax.phantom.hospital import COMMON_SYNTAXES, RARE_SYNTAXES

_SYNTAXES = (*COMMON_SYNTAXES, *RARE_SYNTAXES)
_DAMAGED, _FAULTY = 2000, 4000
_SECONDS = 20.0  # reading that takes longer counts as a hang
_MEGAPIXELS = 0.08
_REAL = ROOT.parent / "shared" / "data" / "radiographs" / "dicom"
_EQUAL = 257
"""Greatest difference of grey values, 1 of 255 levels, at which two pictures count as equal."""


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One time in four the file cut off anywhere, else with one to eight bytes changed."""
    if rng.random() < 0.25:
        return data[: rng.integers(len(data))]
    changed = np.frombuffer(data, np.uint8).copy()
    positions = rng.integers(len(data), size=rng.integers(1, 9))
    changed[positions] ^= rng.integers(1, 256, size=len(positions), dtype=np.uint8)
    return changed.tobytes()


def outcome(path: Path, original: Picture) -> str:
    """'rejected', 'unchanged', or what differs from the original: 'pixels' or other 'facts'.

    Pixels differ where one of them does by more than 1 of 255 levels.
    """
    try:
        read = read_dicom(path, _no_pseudonym)
    except RejectedFileError:
        return "rejected"
    ours, others = read.pixels.astype(np.int32), original.pixels.astype(np.int32)
    if ours.shape != others.shape or np.abs(ours - others).max() > _EQUAL:
        return "pixels"
    facts = ("crop", "spacing_mm", "spacing_source", "source")
    same = all(getattr(read, fact) == getattr(original, fact) for fact in facts)
    return "unchanged" if same else "facts"


@measurement("of 6000", Goal("<=", 0.0), timed=False)
def undetected_mutations() -> Result:
    """Faulty radiographs read as another picture, and those on which reading crashed or hung.

    4000 simulated files have a fault as writers make them: exchanged tags, wrong value
    representations and lengths, nested sequences of undefined length, wrong numbers of bits, odd
    windows, lookup tables, offset tables, fragments and padding, in every transfer syntax. Such a
    fault contradicts the rest of the file or keeps its meaning, so the file must be refused or give
    the original's picture within 1 of 255 levels. 2000 more files, simulated and real (where the
    real ones are available), are cut off anywhere or have one to eight bytes changed. A byte
    changed within the pixels may give another valid picture, which no reader can notice; of these
    files only crashes and delays of more than 20 seconds count. The details count for each kind and
    syntax which files were rejected, read with the original's picture, and read with other pixels
    or other facts.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    peak = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        damaged = folder / "damaged"
        reader = _Reader()
        files = list(_files(folder))
        for number in range(_DAMAGED):
            path, original = files[number % len(files)]
            whole = path.read_bytes()
            damaged.write_bytes(mutated(whole, np.random.default_rng([7, number])))
            result, peak_now = reader.read(damaged, path)
            peak = max(peak, peak_now)
            is_cut = damaged.stat().st_size < len(whole)
            counts["cut off" if is_cut else f"changed, {original.source.syntax}"][result] += 1
        cases = [(kind, path, file) for path, file in _faultless(folder) for kind in kinds(file)]
        for number in range(_FAULTY):
            kind, path, file = cases[number % len(cases)]
            faulty = FAULTS[kind](file, np.random.default_rng([8, number]))
            damaged.write_bytes(faulty.to_bytes())
            result, peak_now = reader.read(damaged, path)
            peak = max(peak, peak_now)
            counts[f"fault, {kind}"][result] += 1
        reader.stop()
    failed = sum(count["crashed"] + count["hung"] for count in counts.values())
    wrong = sum(count["pixels"] for name, count in counts.items() if name.startswith("fault"))
    return Result(
        value=float(failed + wrong),
        device=cpu(),
        details={
            **{name: dict(counts[name]) for name in sorted(counts)},
            "files": len(files),
            "peak memory of the reading process, MiB": peak,
        },
    )


def _files(folder: Path) -> Iterator[tuple[Path, Picture]]:
    """A simulated picture in every syntax, and the real radiographs where they are available."""
    for number, syntax in enumerate(_SYNTAXES):
        path = folder / str(number)
        write(path, picture(_MEGAPIXELS, seed=0), syntax)
        yield path, _read(path)
    for path in sorted(_REAL.glob("*.dcm")):
        try:
            yield path, _read(path)
        except RejectedFileError:
            continue  # malformed on purpose


def _faultless(folder: Path) -> Iterator[tuple[Path, File]]:
    """Pictures in every syntax: with a window and rescaling, with a table, and with neither."""
    for number, syntax in enumerate(_SYNTAXES):
        path = folder / f"plain {number}"
        write(path, _folded(picture(_MEGAPIXELS, seed=0)), syntax)
        plain = File.of(path.read_bytes(), syntax)
        variants = {"plain": plain, "window": _windowed(plain), "table": with_table(plain)}
        for name, file in variants.items():
            path = folder / f"{name} {number}"
            path.write_bytes(file.to_bytes())
            yield path, file


def _folded(pixels: UInt16[np.ndarray, "height width"]) -> UInt16[np.ndarray, "height width"]:
    """Four times the contrast, folded at the ends of the range.

    So all values occur, and as many neighbours lie on both sides of its middle as in large films.
    """
    spread = 4.0 * (pixels - pixels.min()) * (4095 / np.ptp(pixels)) % 8190
    return np.abs(np.round(spread - 4095)).astype(np.uint16)


def _windowed(file: File) -> File:
    bright = 256 if file.syntax == uid.JPEGBaseline8Bit else 4096
    texts = {
        "WindowCenter": str(bright - 50),
        "WindowWidth": str(bright * 7 // 4),
        "RescaleSlope": "2",
        "RescaleIntercept": "-100",
    }
    return file.added(
        *(
            Element(tag_for_keyword(keyword) or 0, b"DS", text.encode() + b" " * (len(text) % 2))
            for keyword, text in texts.items()
        )
    )


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
