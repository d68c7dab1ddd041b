"""Which radiographs a generator shall make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

SMALLEST, LARGEST = 0.1e6, 15e6
"""Pixels that may be asked for, and any number between those of the training radiographs."""

_ASPECT_TOLERANCE = 1.01  # sizes are rounded to whole pixels


@dataclass(frozen=True)
class Request:
    """One radiograph to be made: height and width in pixels, spacing in mm (0 unknown)."""

    height: int
    width: int
    spacing_mm: float
    label: str


def wanted_labels(labels: Sequence[str], shares: Sequence[float]) -> tuple[str, ...]:
    """The classes to be made.

    Args:
        labels: Those asked for; all that the model was trained on when empty.
        shares: `label_shares` that it was trained with; see `loader.Pool`.

    Raises:
        UserError: There is no such class, or the model was not trained on it.
    """
    trained = [la for n, la in enumerate(LABELS) if not shares or shares[n] > 0]
    for label in labels:
        if label not in LABELS:
            raise UserError(f"config.sample.labels names {label!r}; write {' or '.join(LABELS)}.")
        if label not in trained:
            raise UserError(
                f"The model was not trained on {label} (config.data.draw.label_shares); ask for "
                f"{' and '.join(trained)} in config.sample.labels, or take another model."
            )
    return tuple(labels) or tuple(trained)


def draw_requests(
    dataset: RadiographDataset,
    *,
    per_label: int,
    seed: int,
    labels: Sequence[str] = LABELS,
    sizes: Sequence[tuple[int, int]] = (),
    by: str = "patient",
    square: int | None = None,
) -> list[Request]:
    """Draws sizes and spacings from the training radiographs, the same number for each label.

    Args:
        dataset: Holds them.
        per_label: Radiographs of each label.
        seed: Of the draws.
        labels: What to make.
        sizes: Heights and widths to take turns instead. The spacing then lets the drawn
            radiograph keep its area in mm^2.
        by: Which train split, see `RadiographDataset.split`.
        square: Side of the square that a letterboxing model shrinks radiographs into. The longer
            side of `sizes` must then be one that the model was trained on.

    Raises:
        UserError: A label has no training radiograph, or a number or size is out of range.
    """
    if per_label < 1:
        raise UserError(f"config.sample.per_label is {per_label}; give 1 or more.")
    train = [dataset.entries[n] for n in dataset.split("train", by)]
    if sizes:
        _check_sizes(sizes, [(entry.height, entry.width) for entry in train], square)
    rng = np.random.default_rng(seed)
    requests = []
    for label in labels:
        known = [entry for entry in train if entry.label == label]
        if not known:
            raise UserError(
                f"The train split of {dataset.folder} has no radiograph with label {label}; "
                "add some before sampling."
            )
        for number, n in enumerate(rng.integers(len(known), size=per_label)):
            entry = known[n]
            height, width = sizes[number % len(sizes)] if sizes else (entry.height, entry.width)
            scale = math.sqrt(entry.height * entry.width / (height * width))
            requests.append(Request(height, width, entry.spacing_mm * scale, label))
    return requests


def _check_sizes(
    sizes: Sequence[tuple[int, int]], known: Sequence[tuple[int, int]], square: int | None
) -> None:
    pixels = [height * width for height, width in known]
    low, high = min(SMALLEST, *pixels), max(LARGEST, *pixels)
    aspects = [height / width for height, width in known]
    flattest, tallest = min(aspects) / _ASPECT_TOLERANCE, max(aspects) * _ASPECT_TOLERANCE
    longer = sorted(min(square or 0, max(size)) for size in known)
    for height, width in sizes:
        asked = f"config.sample.sizes asks for {height} x {width} pixels"
        if square:
            if min(height, width) < 1 or not longer[0] <= max(height, width) <= longer[-1]:
                raise UserError(
                    f"{asked}; this model was trained on radiographs with {longer[0]} to "
                    f"{longer[-1]} pixels on the longer side, so give such a one, and the shorter "
                    "side by the aspect ratio."
                )
        elif min(height, width) < 1 or not low <= height * width <= high:
            raise UserError(
                f"{asked}; give a height and a width that make {low / 1e6:.3g} to "
                f"{high / 1e6:.3g} megapixels."
            )
        if not flattest <= height / width <= tallest:
            raise UserError(
                f"{asked}, {height / width:.3g} times as high as wide; the training radiographs "
                f"are {min(aspects):.3g} to {max(aspects):.3g} times, so stay between."
            )
