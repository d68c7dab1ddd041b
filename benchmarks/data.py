"""Ingest against the bare codecs, and the loader against what a student would write."""

import csv
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import get_frame

from benchmarks import radiographs
from benchmarks.machine import cpu, seconds
from benchmarks.peer import peer_command
from benchmarks.records import Goal, Result, measurement, ratio_of_rounds
from femur_jax.data import codec
from femur_jax.data.loader import Pool, random_patches
from femur_jax.data.shards import RadiographDataset
from femur_jax.ingest.check import ACCEPTED, try_files
from femur_jax.ingest.pipeline import Limits, ingest

_PATCH = 256
_ROUNDS = 5
_PATCHES = 300  # of a round
_SIZES = (1.0, 2.0, 4.0, 9.0, 15.0)  # megapixels
_SYNTAXES = {
    "uncompressed": uid.ExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG lossless": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
}
_DECODERS = {
    "JPEG lossless": imagecodecs.jpeg8_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    "JPEG 2000": imagecodecs.jpeg2k_decode,
}


@measurement("x", Goal(">=", 0.7))
def ingest_over_codec() -> Result:
    """Speed of the whole ingest with one worker, over that of the bare codecs on the same files.

    Files have 1 to 15 megapixels of 12 bits, uncompressed or as RLE, JPEG lossless, JPEG-LS and
    JPEG 2000 lossless. The ingest reads, checks and decodes them, converts to grey values, finds
    the crop, hashes, builds the pyramid, encodes all tiles, and writes the spool, the dataset and
    its checksums; the limit only reads, decodes and encodes each picture as a whole.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            kind: [folder / "dicom" / f"{kind} {size}.dcm" for size in _SIZES] for kind in _SYNTAXES
        }
        _write(files)
        labels = folder / "labels.csv"
        _write_labels(labels, [path for paths in files.values() for path in paths])
        # Processes start once for a cohort, so their start is measured apart and left out.
        start = min(_start_seconds(folder, folder / "tiny.csv", number) for number in range(3))
        bare: dict[str, list[float]] = {kind: [] for kind in files}
        ours = []
        for number in range(_ROUNDS):
            for kind, paths in files.items():
                bare[kind].append(seconds(_transcode_all, paths, kind))
            out = folder / f"dataset-{number}"
            ours.append(seconds(_ingest, folder / "dicom", labels, out) - start)
        ratio, spread = ratio_of_rounds(
            [sum(times) for times in zip(*bare.values(), strict=True)], ours
        )
    megapixels = sum(_SIZES)
    return Result(
        value=ratio,
        spread=spread,
        device=cpu(),
        versions={"imagecodecs": imagecodecs.__version__, "pydicom": pydicom.__version__},
        details={
            "files": f"{len(_SIZES)} of {_SIZES} megapixels in each of {', '.join(files)}",
            "MP/s": megapixels * len(files) / median(ours),
            "MP/s of the codecs alone": ", ".join(
                f"{kind} {megapixels / median(times):.1f}" for kind, times in bare.items()
            ),
            "seconds to start, left out": start,
            "rounds": _ROUNDS,
        },
    )


@measurement("GiB", Goal("<=", 1.0), timed=False)
def ingest_gib() -> Result:
    """Peak memory of a worker process that ingests a DICOM file of 15 megapixels.

    The files have 12 bits and are uncompressed or RLE, JPEG lossless, JPEG-LS and JPEG 2000
    lossless. Each is read and its pyramid encoded, as `femur ingest --check` does it. The value is
    that of the file with the highest peak, and the spread is over the files.
    """
    with tempfile.TemporaryDirectory() as name:
        files = {kind: [Path(name) / f"{kind}.dcm"] for kind in _SYNTAXES}
        _write(files, sizes=[15.0])
        results = try_files([path for [path] in files.values()], workers=1, limits=Limits())
    if any(result.code != ACCEPTED or result.peak_mib is None for result in results):
        raise RuntimeError("the ingest does not accept the files")
    peaks = [(result.peak_mib or 0) / 1024 for result in results]
    return Result(
        value=max(peaks),
        spread=(min(peaks), max(peaks)),
        device=cpu(),
        versions={"imagecodecs": imagecodecs.__version__, "pydicom": pydicom.__version__},
        details={kind: f"{peak:.3f} GiB" for kind, peak in zip(files, peaks, strict=True)},
    )


@measurement("x", Goal(">=", 100.0))
def patches_over_pydicom() -> Result:
    """Random 256 x 256 patches a second on one core, over a DataLoader on JPEG-lossless DICOM.

    The sources have 15 megapixels. The peer is PyTorch's DataLoader with a dataset that opens a
    file with pydicom (and gdcm) for each patch.
    """
    return _over_pydicom("JPEG lossless")


@measurement("x", Goal(">=", 5.0))
def patches_over_pydicom_uncompressed() -> Result:
    """The same as patches_over_pydicom, from uncompressed DICOM."""
    return _over_pydicom("uncompressed")


def _over_pydicom(kind: str) -> Result:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {kind: [folder / "dicom" / f"{n}.dcm" for n in range(6)]}
        _write(files, sizes=[15.0] * 6)
        labels = folder / "labels.csv"
        _write_labels(labels, files[kind])
        dataset = _ingest(folder / "dicom", labels, folder / "dataset")
        peer, ours, full = [], [], []
        for _ in range(_ROUNDS):
            peer.append(_peer_seconds(files[kind]))
            ours.append(_patch_seconds(_windows(dataset)))
            full.append(_patch_seconds(_training_patches(dataset)))
    ratio, spread = ratio_of_rounds(peer, ours)
    return Result(
        value=ratio,
        spread=spread,
        device=cpu(),
        versions={"pydicom": pydicom.__version__},
        details={
            "source": kind,
            "patches/s": 1 / median(ours),
            "patches/s with the coarser level's crop, as diffusion trains": 1 / median(full),
            "patches/s of the DataLoader": 1 / median(peer),
            "rounds": _ROUNDS,
        },
    )


@measurement("x", Goal(">=", 0.6))
def patches_over_decode() -> Result:
    """Random 256 x 256 patches a second, over the rate at which their tiles decode from memory.

    The detail `cost from 15 megapixels over cost from 1` should be at most 1.2.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets = {}
        for size in (1.0, 15.0):
            files = [folder / f"dicom {size}" / f"{n}.dcm" for n in range(6)]
            _write({"uncompressed": files}, sizes=[size] * 6)
            _write_labels(folder / "labels.csv", files)
            datasets[size] = _ingest(files[0].parent, folder / "labels.csv", folder / f"{size}")
        bare, ours, small = [], [], []
        tiles = _tiles(datasets[15.0])
        for _ in range(_ROUNDS):
            bare.append(seconds(_decode_all, tiles) / _PATCHES)
            ours.append(_patch_seconds(_windows(datasets[15.0])))
            small.append(_patch_seconds(_windows(datasets[1.0])))
    ratio, spread = ratio_of_rounds(bare, ours)
    return Result(
        value=ratio,
        spread=spread,
        device=cpu(),
        details={
            "patches/s from 15 megapixels": 1 / median(ours),
            "patches/s from 1 megapixel": 1 / median(small),
            "cost from 15 megapixels over cost from 1": median(ours) / median(small),
            "patches/s of decoding alone": 1 / median(bare),
            "tiles of a patch": len(tiles) / _PATCHES,
            "rounds": _ROUNDS,
        },
    )


def _write(files: dict[str, list[Path]], sizes: list[float] | None = None) -> None:
    for kind, paths in files.items():
        for seed, (path, size) in enumerate(zip(paths, sizes or _SIZES, strict=True)):
            path.parent.mkdir(exist_ok=True)
            # A seed for each syntax, since equal pictures would count as duplicates.
            pixels = radiographs.picture(size, seed + 100 * len(kind))
            radiographs.write(path, pixels, _SYNTAXES[kind])


def _write_labels(labels: Path, paths: list[Path]) -> None:
    with labels.open("w", newline="") as file:
        rows = [(p.name, f"p{n}", "h", ("NFF", "AFF")[n % 2]) for n, p in enumerate(paths)]
        csv.writer(file).writerows([("path", "patient_id", "hospital", "label"), *rows])


def _ingest(folder: Path, labels: Path, out: Path) -> RadiographDataset:
    key = out.with_name("key")
    ingest(folder, labels, out, patch=_PATCH, key_file=key, fractions=(0.0, 0.0), workers=1)
    return RadiographDataset(out)


def _start_seconds(folder: Path, labels: Path, number: int) -> float:
    """Seconds of an ingest of four pictures too small to take time themselves."""
    paths = [folder / "dicom" / f"tiny {number} {n}.dcm" for n in range(4)]
    for n, path in enumerate(paths):
        radiographs.write(path, radiographs.picture(0.002, n), _SYNTAXES["uncompressed"])
    _write_labels(labels, paths)
    return seconds(_ingest, folder / "dicom", labels, folder / f"tiny-{number}")


def _transcode_all(paths: list[Path], kind: str) -> None:
    for path in paths:
        _transcode(path, kind)


def _transcode(path: Path, kind: str) -> None:
    """Reads, decodes and encodes a picture, which every ingest must do."""
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
    """A function that draws patches of the finest level alone, as plain loaders do."""
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

    def draw_many(count: int) -> None:
        for n in range(count):
            draw(n)

    draw_many(20)
    return seconds(draw_many, _PATCHES) / _PATCHES


def _tiles(dataset: RadiographDataset) -> list[bytes]:
    """Encoded tiles that _PATCHES random patches touch."""
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
    """Seconds for a patch of the student's loader, in a separate process."""
    command = peer_command("patches_pydicom.py", *files)
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(process.stdout)["seconds_per_patch"]


def _decode_all(tiles: list[bytes]) -> None:
    for tile in tiles:
        codec.decode(tile)
