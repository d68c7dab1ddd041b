"""Where tiles lie on a level, and the weights that blend their estimates."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from femur_jax.data.loader import last_origin


class Span(NamedTuple):
    """A tile along one side of a level."""

    origin: int
    """The first pixel of the tile; even, as in training, and inside the level."""
    weights: Float32[np.ndarray, "patch"]
    """The weight of each pixel; over all tiles the weights add up to 1 at every pixel."""


def spans(length: int, patch: int, *, overlap: float) -> list[Span]:
    """Covers a side with tiles.

    A grid of cells of `patch` pixels that share a fraction with their neighbours covers the side.
    Where two cells share pixels, weights pass smoothly from one to the other as sin^2 and cos^2;
    with no overlap each pixel belongs to one cell. A last cell that sticks out is served by a tile
    at the border, so that no tile lies where no patch lay in training.

    Args:
        length: The number of pixels along the side.
        patch: The side of a tile.
        overlap: The fraction of a tile that it shares with the next, from 0 to 0.5.
    """
    last = last_origin(length, patch)
    ramp = 2 * round(overlap * patch / 2)  # the number of shared pixels, even
    starts = [0]
    while starts[-1] + patch < length:
        starts.append(starts[-1] + patch - ramp)
    rise = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
    window = np.concatenate([rise, np.ones(patch - 2 * ramp), rise[::-1]])
    origins = [min(start, last) for start in starts]
    weights = np.zeros((len(starts), last + patch))
    for row, start, origin in zip(weights, starts, origins, strict=True):
        row[start : origin + patch] = window[: origin + patch - start]
    covered = weights.sum(0)
    weights /= np.where(covered > 0, covered, 1)
    return [
        Span(origin, row[origin : origin + patch].astype(np.float32))
        for origin, row in zip(origins, weights, strict=True)
    ]
