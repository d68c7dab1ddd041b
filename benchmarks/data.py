"""Ingest against the bare codecs, and the loader against what a student would write."""

import csv
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import get_frame

from benchmarks import radiographs
from benchmarks.environment import peer_python
from benchmarks.machine import cpu
from benchmarks.measurements import Found
from benchmarks.records import ratio_of_rounds
from femur_jax.data import codec
from femur_jax.data.loader import Pool, random_patches
from femur_jax.data.shards import RadiographDataset
from femur_jax.ingest.pipeline import ingest

_PEER = Path(__file__).parent / "peers" / "patches_pydicom.py"
_PATCH = 256
_ROUNDS = 5
_SIZES = (1.0, 2.0, 4.0, 9.0, 15.0)  # megapixels
_DECODERS = {
    "JPEG lossless": imagecodecs.jpeg8_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    "JPEG 2000": imagecodecs.jpeg2k_decode,
}


def ingest_over_codec() -> Found:
    """Time of the codecs alone over that of the whole ingest, with one worker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            kind: [folder / "dicom" / f"{kind} {size}.dcm" for size in _SIZES]
            for kind in radiographs.SYNTAXES
        }
        _write(files)
        labels = folder / "labels.csv"
        _write_labels(labels, [path for paths in files.values() for path in paths])
        # Processes start once for a cohort, so their start is measured apart and left out.
        start = min(_start(folder, folder / "tiny.csv", number) for number in range(3))
        bare: dict[str, list[float]] = {kind: [] for kind in files}
        own = []
        for number in range(_ROUNDS):
            for kind, paths in files.items():
                bare[kind].append(_seconds(_transcode_all, paths, kind))
            out = folder / f"dataset-{number}"
            own.append(_seconds(_ingest, folder / "dicom", labels, out) - start)
        ratio, spread = ratio_of_rounds(
            [sum(times) for times in zip(*bare.values(), strict=True)], own
        )
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    megapixels = sum(_SIZES)
    return Found(
        value=ratio,
        spread=spread,
        device=cpu(),
        versions={"imagecodecs": imagecodecs.__version__, "pydicom": pydicom.__version__},
        details={
            "files": f"{len(_SIZES)} of {_SIZES} megapixels in each of {', '.join(files)}",
            "MP/s": megapixels * len(files) / median(own),
            "MP/s of the codecs alone": ", ".join(
                f"{kind} {megapixels / median(times):.1f}" for kind, times in bare.items()
            ),
            "peak memory of a worker, GiB": peak,
            "seconds to start, left out": start,
            "rounds": _ROUNDS,
        },
    )


def patches_over_pydicom(kind: str) -> Found:
    """Random patches a second of 15-megapixel radiographs, over a loader that opens DICOM."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {kind: [folder / "dicom" / f"{n}.dcm" for n in range(6)]}
        _write(files, sizes=[15.0] * 6)
        labels = folder / "labels.csv"
        _write_labels(labels, files[kind])
        dataset = _ingest(folder / "dicom", labels, folder / "dataset")
        peer, own, full = [], [], []
        for _ in range(_ROUNDS):
            peer.append(_peer_seconds(files[kind]))
            own.append(_patch_seconds(_windows(dataset)))
            full.append(_patch_seconds(_training_patches(dataset)))
    ratio, spread = ratio_of_rounds(peer, own)
    return Found(
        value=ratio,
        spread=spread,
        device=cpu(),
        versions={"pydicom": pydicom.__version__},
        details={
            "source": kind,
            "patches/s": 1 / median(own),
            "patches/s with the coarser level's crop, as diffusion trains": 1 / median(full),
            "patches/s of the DataLoader": 1 / median(peer),
            "rounds": _ROUNDS,
        },
    )


def patches_over_decode() -> Found:
    """Patches a second over those of decoding their tiles from memory, and the cost by size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets = {}
        for size in (1.0, 15.0):
            files = [folder / f"dicom {size}" / f"{n}.dcm" for n in range(6)]
            _write({"uncompressed": files}, sizes=[size] * 6)
            _write_labels(folder / "labels.csv", files)
            datasets[size] = _ingest(files[0].parent, folder / "labels.csv", folder / f"{size}")
        bare, own, small = [], [], []
        tiles = _tiles(datasets[15.0])
        for _ in range(_ROUNDS):
            bare.append(_seconds(_decode_all, tiles) / _PATCHES)
            own.append(_patch_seconds(_windows(datasets[15.0])))
            small.append(_patch_seconds(_windows(datasets[1.0])))
    ratio, spread = ratio_of_rounds(bare, own)
    return Found(
        value=ratio,
        spread=spread,
        device=cpu(),
        details={
            "patches/s from 15 megapixels": 1 / median(own),
            "patches/s from 1 megapixel": 1 / median(small),
            "cost from 15 megapixels over cost from 1": median(own) / median(small),
            "patches/s of decoding alone": 1 / median(bare),
            "tiles of a patch": len(tiles) / _PATCHES,
            "rounds": _ROUNDS,
        },
    )


_PATCHES = 300
"""Patches of a round."""


def _write(files: dict[str, list[Path]], sizes: list[float] | None = None) -> None:
    for kind, paths in files.items():
        for seed, (path, size) in enumerate(zip(paths, sizes or _SIZES, strict=True)):
            path.parent.mkdir(exist_ok=True)
            # Another seed for each syntax: equal pictures would count as duplicates.
            pixels = radiographs.picture(size, seed + 100 * len(kind))
            radiographs.write(path, pixels, radiographs.SYNTAXES[kind])


def _write_labels(labels: Path, paths: list[Path]) -> None:
    with labels.open("w", newline="") as file:
        rows = [(p.name, f"p{n}", "h", ("NFF", "AFF")[n % 2]) for n, p in enumerate(paths)]
        csv.writer(file).writerows([("path", "patient_id", "hospital", "label"), *rows])


def _ingest(folder: Path, labels: Path, out: Path) -> RadiographDataset:
    key = out.with_name("key")
    ingest(folder, labels, out, patch=_PATCH, key_file=key, fractions=(0.0, 0.0), workers=1)
    return RadiographDataset(out)


def _start(folder: Path, labels: Path, number: int) -> float:
    """Seconds of an ingest of four pictures that take no time."""
    paths = [folder / "dicom" / f"tiny {number} {n}.dcm" for n in range(4)]
    for n, path in enumerate(paths):
        radiographs.write(path, radiographs.picture(0.002, n), radiographs.SYNTAXES["uncompressed"])
    _write_labels(labels, paths)
    return _seconds(_ingest, folder / "dicom", labels, folder / f"tiny-{number}")


def _transcode_all(paths: list[Path], kind: str) -> None:
    for path in paths:
        _transcode(path, kind)


def _transcode(path: Path, kind: str) -> None:
    """What no ingest can do without: reading, decoding, and encoding the picture."""
    dataset = pydicom.dcmread(path)
    if kind == "uncompressed":
        pixels = np.frombuffer(dataset.PixelData, np.uint16)
    elif kind == "RLE":
        dtype = np.dtype("<u2")
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        pixels = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype), dtype)
    else:
        pixels = _DECODERS[kind](get_frame(dataset.PixelData, 0, number_of_frames=1))
    codec.encode(pixels.reshape(dataset.Rows, dataset.Columns))


def _windows(dataset: RadiographDataset) -> Callable[[int], object]:
    """Patches of the finest level alone, as plain loaders give them."""
    rng, size = np.random.default_rng(0), (_PATCH, _PATCH)

    def draw(_: int) -> np.ndarray:
        radiograph = int(rng.integers(len(dataset.entries)))
        sizes = dataset.level_sizes(radiograph)
        origin = tuple(int(rng.integers(side - _PATCH + 1)) for side in sizes[-1])
        return dataset.window(radiograph, len(sizes) - 1, (origin[0], origin[1]), size)

    return draw


def _training_patches(dataset: RadiographDataset) -> Callable[[int], object]:
    finest_alone = [0.0] * (dataset.levels - 1) + [1.0]
    [(samples, _)] = random_patches(Pool([dataset]), level_weights=finest_alone, seed=0)
    return samples.__getitem__


def _patch_seconds(draw: Callable[[int], object]) -> float:
    """Seconds for a patch, after some that open the files."""
    for n in range(20):
        draw(n)
    begin = time.perf_counter()
    for n in range(_PATCHES):
        draw(n)
    return (time.perf_counter() - begin) / _PATCHES


def _tiles(dataset: RadiographDataset) -> list[bytes]:
    """The tiles under _PATCHES random patches, as coded."""
    rng, tiles = np.random.default_rng(1), []
    for _ in range(_PATCHES):
        height, width = dataset.level_sizes(0)[-1]
        rows, columns = (int(rng.integers(side - _PATCH + 1)) for side in (height, width))
        for y in range(rows // _PATCH, (rows + _PATCH - 1) // _PATCH + 1):
            for x in range(columns // _PATCH, (columns + _PATCH - 1) // _PATCH + 1):
                level = len(dataset.level_sizes(0)) - 1
                bottom, right = min((y + 1) * _PATCH, height), min((x + 1) * _PATCH, width)
                size = (bottom - y * _PATCH, right - x * _PATCH)
                tile = dataset.window(0, level, (y * _PATCH, x * _PATCH), size)
                tiles.append(codec.encode(tile))
    return tiles


def _peer_seconds(files: list[Path]) -> float:
    """Seconds for a patch of the student's loader, in a process of its own."""
    command = [str(peer_python()), str(_PEER), *map(str, files)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["seconds_per_patch"]


def _decode_all(tiles: list[bytes]) -> None:
    for tile in tiles:
        codec.decode(tile)


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin
