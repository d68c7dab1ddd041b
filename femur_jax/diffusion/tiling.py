"""Where tiles lie on a level, and with what weights their estimates are joined."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from femur_jax.data.loader import last_origin


class Span(NamedTuple):
    """A tile along one side of a level."""

    origin: int
    """Its first pixel; even, as in training, and such that the tile begins inside the level."""
    weights: Float32[np.ndarray, "patch"]
    """What each of its pixels counts; over all tiles they add up to 1 at every pixel."""


def spans(length: int, patch: int, *, overlap: float, shift: int = 0) -> list[Span]:
    """Covers a side with tiles.

    A grid of cells of `patch` pixels, of which neighbours share a fraction, is laid over the side.
    Where they share pixels, weights pass from one to the other as sin^2 and cos^2, smoothly; with
    no overlap each pixel belongs to one cell. A cell that sticks out is served by the outermost
    tile, so that no tile lies where none lay in training.

    Args:
        length: Of the side, in pixels.
        patch: Side of a tile.
        overlap: Fraction of a tile that it shares with the next, from 0 to 0.5.
        shift: Even number of pixels that the grid is moved by, less than its period.
    """
    last = last_origin(length, patch)
    ramp = even(overlap * patch)
    period = patch - ramp
    starts = [0 if last == 0 or shift == 0 else shift - period]
    while starts[-1] + patch < length:
        starts.append(starts[-1] + period)
    rise = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
    window = np.concatenate([rise, np.ones(patch - 2 * ramp), rise[::-1]])
    origins = [min(max(start, 0), last) for start in starts]
    weights = np.zeros((len(starts), last + patch))
    for row, start, origin in zip(weights, starts, origins, strict=True):
        inside = slice(max(start, 0), min(start + patch, origin + patch))
        row[inside] = window[inside.start - start : inside.stop - start]
    covered = weights.sum(0)
    weights /= np.where(covered > 0, covered, 1)
    return [
        Span(origin, row[origin : origin + patch].astype(np.float32))
        for origin, row in zip(origins, weights, strict=True)
    ]


def random_shifts(rng: np.random.Generator, patch: int, *, overlap: float) -> tuple[int, int]:
    """How far the grid is moved down and right: any even numbers less than its period.

    Shifting the grid anew at every step of the solver leaves no place where a seam could build
    up (PaDIS, Hu et al. 2024, arXiv 2406.02462).
    """
    period = patch - even(overlap * patch)
    down, right = (2 * int(n) for n in rng.integers(period // 2, size=2))
    return down, right


def even(number: float) -> int:
    """The nearest even number."""
    return 2 * round(number / 2)
