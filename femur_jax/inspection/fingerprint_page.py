"""A dataset's fingerprint as one self-contained HTML page, with pictures for a person to check."""

import base64
import csv
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from femur_jax.data.cohort import seeded_hash
from femur_jax.data.pyramid import shrink
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import RadiographEntry
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.ingest.rejection import REASONS
from femur_jax.inspection.fingerprint import Fingerprint, Histogram
from femur_jax.progress import Progress
from femur_jax.templates import template_environment

_SIDE = 256
_MOST_PAIRS = 50
_MOST_UNCLEAR = 100
_WIDTH, _HEIGHT = 300, 110  # size of a histogram's plot in pixels


@dataclass(frozen=True)
class Thumbnail:
    """A picture of a whole recorded image, at most 256 pixels wide and high.

    Attributes:
        entry: The manifest's entry of the radiograph.
        data: The JPEG file in base64.
        height, width: Size in pixels.
        crop: Top, left, height and width of the crop in percent, None for the whole image.
    """

    entry: RadiographEntry
    data: str
    height: int
    width: int
    crop: tuple[float, float, float, float] | None


def write_page(
    result: Fingerprint,
    dataset: RadiographDataset,
    path: Path,
    *,
    per_class: int | None,
    seed: int = 0,
    lines: Mapping[str, int] | None = None,
) -> None:
    """Writes the page, which shows patients' radiographs and has no external references.

    Args:
        result: Fingerprint of the dataset.
        dataset: The dataset itself, for its radiographs.
        path: Path of the new HTML file.
        per_class: Greatest number of radiographs of each class, None for all.
        seed: Seed of the random choice of radiographs.
        lines: Lines of the label table by pseudonym of the file, to be shown next to radiographs
            and unusable files; see `read_lines`.

    Raises:
        UserError: A radiograph is damaged.
    """
    sheets = {label: contact_sheet(dataset.entries, label, per_class, seed) for label in LABELS}
    pairs = [pair for pair in result.similar if pair.across][:_MOST_PAIRS]
    position = {entry.name: n for n, entry in enumerate(dataset.entries)}
    shown = [n for sheet in sheets.values() for n in sheet]
    shown += [position[name] for pair in pairs for name in pair.files]
    unclear = list(result.unclear)[:_MOST_UNCLEAR]
    shown += [position[name] for name in unclear]
    pictures = _thumbnails(dataset, sorted(set(shown)))
    environment = template_environment(Path(__file__).parent)
    short = short_names([hospital.name for hospital in result.hospitals])
    environment.filters |= {"short": short.__getitem__, "outline": _outline}
    known = lines or {}
    environment.filters["line"] = lambda name: f"line {known[name]}" if name in known else ""
    totals = {label: sum(e.label == label for e in dataset.entries) for label in LABELS}
    template = environment.get_template("fingerprint.html.j2")
    html = template.render(
        result=result,
        labels=LABELS,
        totals=totals,
        sheets={label: [pictures[n] for n in sheet] for label, sheet in sheets.items()},
        pairs=[(pair, [pictures[position[name]] for name in pair.files]) for pair in pairs],
        unclear=[pictures[position[name]] for name in unclear],
        unusable=[
            (code, REASONS[code], len(files), sorted(known[f] for f in files if f in known))
            for code, files in result.quarantined.items()
        ],
        plot=(_WIDTH, _HEIGHT),
    )
    path.write_text(html, encoding="utf-8")


def read_lines(path: Path) -> dict[str, int]:
    """Reads the line of the label table of each file, which ingestion writes next to the key.

    Raises:
        UserError: The file is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["file"]: int(row["line"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError):  # TypeError: a line ends too early
        raise UserError(
            f"{path} is not a table of lines; name the one that femur ingest wrote next to the key."
        ) from None


def contact_sheet(
    entries: Sequence[RadiographEntry], label: str, most: int | None, seed: int = 0
) -> list[int]:
    """Positions of the radiographs of a class to show, sorted by hospital.

    They are spread over all hospitals as evenly as possible, since lettering that a device or a
    habit burns into pictures is typical of a hospital.

    Args:
        entries: Entries of the dataset.
        label: The class to show.
        most: Greatest number of radiographs, None for all.
        seed: Seed of the random choice.
    """
    candidates = sorted(
        (n for n, entry in enumerate(entries) if entry.label == label),
        key=lambda n: seeded_hash(seed, entries[n].sha256),
    )
    turn: dict[int, int] = {}
    seen: dict[str, int] = {}
    for n in candidates:
        turn[n] = seen[entries[n].hospital] = seen.get(entries[n].hospital, 0) + 1
    chosen = sorted(candidates, key=turn.__getitem__)[:most]  # stable: by turn, then by chance
    return sorted(chosen, key=lambda n: (entries[n].hospital, entries[n].patient, n))


def short_names(names: Sequence[str], least: int = 4) -> dict[str, str]:
    """Prefixes of the names, of the least common length from `least` that keeps them distinct."""
    length = least
    while len({name[:length] for name in names}) < len(set(names)):
        length += 1
    return {name: name[:length] for name in names}


def _thumbnails(dataset: RadiographDataset, positions: Sequence[int]) -> Mapping[int, Thumbnail]:
    # Decoders and resizing release the lock, and each thread holds one radiograph at a time.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = pool.map(lambda n: thumbnail(dataset, n), positions)
        bar = Progress(pictures, "thumbnails", len(positions))
        return dict(zip(positions, bar, strict=True))


def thumbnail(dataset: RadiographDataset, radiograph: int) -> Thumbnail:
    """Shrinks the whole recorded image, since lettering may lie outside the crop.

    Raises:
        UserError: The radiograph is damaged.
    """
    entry = dataset.entries[radiograph]
    crop = entry.crop
    whole = (crop.height, crop.width) == entry.recorded
    if whole:  # a coarse level shows the same and takes a hundredth of the time
        pixels = dataset.read(radiograph, _level(dataset.level_sizes(radiograph)))
    else:
        pixels = dataset.read_recorded(radiograph)
    small = shrink(pixels, (_SIDE, _SIDE))
    height, width = small.shape
    rows, columns = (100 / side for side in entry.recorded)
    box = (crop.top * rows, crop.left * columns, crop.height * rows, crop.width * columns)
    return Thumbnail(entry, _jpeg(small), height, width, None if whole else box)


def _level(sizes: Sequence[tuple[int, int]]) -> int:
    """The coarsest level at least as large as a thumbnail, or the finest."""
    return next((n for n, size in enumerate(sizes) if max(size) >= _SIDE), len(sizes) - 1)


def _jpeg(pixels: UInt16[np.ndarray, "height width"]) -> str:
    file = io.BytesIO()
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def _outline(histogram: Histogram, label: str) -> str:
    """The steps of one class's histogram as the path data of an SVG element."""
    highest = max(max(shares) for shares in histogram.shares.values())
    step = _WIDTH / len(histogram.shares[label])
    heights = [_HEIGHT * (1 - share / highest) for share in histogram.shares[label]]
    path = [f"M0 {_HEIGHT}", *(f"V{y:.1f}h{step:.4g}" for y in heights), f"V{_HEIGHT}"]
    return "".join(path)
