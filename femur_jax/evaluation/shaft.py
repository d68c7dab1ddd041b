"""The femur's outline in a radiograph: its two outer edges, row by row, and whether they break.

A generator that works in tiles and levels may shift the bone where two of them meet. The edges are
traced in the pixels alone, so that real, simulated and synthetic radiographs are measured alike.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt16
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from femur_jax.data.pyramid import pyramid

_COARSEST = 128  # longer side of the image in which both edges are sought together
_WIDTHS = (0.07, 0.5)  # of the femur, over the image's width
_STEEPEST = 3  # greatest step of an edge from one row to the next, pixels
_PENALTY = 0.5  # of a step of one pixel, in standard deviations of the slope
_BAND = 4  # an edge of a finer level lies so many pixels from the coarser level's
_FLANK = 3  # how far outside of an edge the soft tissue's brightness is read, pixels
_WINDOW = 3  # rows over which a break's jump may spread: the filters smooth it
_SMOOTH = 1.0  # standard deviation of the filters, pixels


@dataclass(frozen=True)
class Shaft:
    """Columns of the outer edges in each row.

    Attributes:
        left, right: The columns.
        contrast: How strongly the grey values rise into the bone there, mean of both edges, over
            the standard deviation of such slopes nearby; 0 for an edge that is not there.
    """

    left: Int[np.ndarray, "height"]
    right: Int[np.ndarray, "height"]
    contrast: Float[np.ndarray, "height"]

    def breaks(self, pixels: int) -> float:
        """Share of the rows from which an edge moves by at least so many pixels in three rows."""
        moved = [abs(edge[_WINDOW:] - edge[:-_WINDOW]) for edge in (self.left, self.right)]
        return float(np.mean(np.maximum(*moved) >= pixels))


def trace_shaft(image: UInt16[np.ndarray, "height width"]) -> Shaft:
    """Finds the edges of a bone that runs from the top to the bottom of an image.

    Dynamic programming finds the pair of edges with the greatest sum of slopes, brighter inside,
    less a penalty on their steps; in a small image first, then each edge near its place in finer
    ones. Slopes beside black count less: those are of the skin.

    Args:
        image: Bone bright, at least 8 x 8 pixels.
    """
    levels = pyramid(image, _COARSEST)
    rise, fall = _slopes(levels[0])
    left, right = _pair(rise, fall)
    for level in levels[1:]:
        rise, fall = _slopes(level)
        left, right = (
            _near(slope, np.repeat(2 * edge, 2)[: len(level)])
            for slope, edge in ((rise, left), (fall, right))
        )
    rows = np.arange(len(left))
    return Shaft(left, right, (rise[rows, left] + fall[rows, right]) / 2)


def _slopes(
    image: UInt16[np.ndarray, "height width"],
) -> tuple[Float[np.ndarray, "height width"], Float[np.ndarray, "height width"]]:
    """How much the image rises, and how much it falls, from left to right, normalised."""
    smooth = gaussian_filter(image.astype(np.float64), _SMOOTH)
    slope = gaussian_filter1d(
        gaussian_filter1d(image.astype(np.float64), _SMOOTH, axis=0), _SMOOTH, axis=1, order=1
    )
    spread = np.sqrt(gaussian_filter(slope**2, max(image.shape) / 16)) + 1.0
    slope = np.clip(slope / spread, -3, 3)
    tissue = np.clip(smooth / max(float(np.median(smooth)), 1.0), 0, 1)
    flanks = np.pad(tissue, ((0, 0), (_FLANK, _FLANK)), mode="edge")
    before, after = flanks[:, : -2 * _FLANK], flanks[:, 2 * _FLANK :]
    return (
        np.where(slope > 0, slope * before, slope),
        np.where(slope < 0, -slope * after, -slope),
    )


def _pair(
    rise: Float[np.ndarray, "height width"], fall: Float[np.ndarray, "height width"]
) -> tuple[Int[np.ndarray, "height"], Int[np.ndarray, "height"]]:
    """The best two edges at a plausible distance; states are all pairs of columns."""
    height, width = rise.shape
    columns = np.arange(width)
    apart = columns[None, :] - columns[:, None]
    plausible = (apart >= max(_WIDTHS[0] * width, 3)) & (apart <= max(_WIDTHS[1] * width, 4))
    score = np.where(plausible, rise[0, :, None] + fall[0, None, :], -np.inf)
    steps = np.zeros((height, 2, width, width), np.int8)
    for row in range(1, height):
        for edge in (0, 1):
            score, steps[row, edge] = _move(score, edge)
        score = np.where(plausible, score + rise[row, :, None] + fall[row, None, :], -np.inf)
    path = np.zeros((height, 2), int)
    path[-1] = np.unravel_index(score.argmax(), score.shape)
    for row in range(height - 1, 0, -1):
        left, right = path[row]
        right += steps[row, 1, left, right]  # the later of the two moves is undone first
        left += steps[row, 0, left, right]
        path[row - 1] = left, right
    return path[:, 0], path[:, 1]


def _near(
    slope: Float[np.ndarray, "height width"], centre: Int[np.ndarray, "height"]
) -> Int[np.ndarray, "height"]:
    """The best edge within a band around `centre`; states are all columns."""
    height, width = slope.shape
    columns = np.arange(width)
    slope = np.where(abs(columns - centre[:, None]) <= _BAND, slope, -np.inf)
    score, steps = slope[0], np.zeros((height, width), np.int8)
    for row in range(1, height):
        score, steps[row] = _move(score, 0)
        score = score + slope[row]
    path = np.zeros(height, int)
    path[-1] = score.argmax()
    for row in range(height - 1, 0, -1):
        path[row - 1] = path[row] + steps[row, path[row]]
    return path


def _move(
    score: Float[np.ndarray, "..."], axis: int
) -> tuple[Float[np.ndarray, "..."], Int[np.ndarray, "..."]]:
    """For each state, the best score of the row before, and where along an axis it came from."""
    length = score.shape[axis]
    reach = range(-_STEEPEST, _STEEPEST + 1)
    padded = np.pad(
        score,
        [(_STEEPEST, _STEEPEST) if a == axis else (0, 0) for a in range(score.ndim)],
        constant_values=-np.inf,
    )
    came = np.stack(
        [
            padded.take(np.arange(length) + _STEEPEST + step, axis) - _PENALTY * abs(step)
            for step in reach
        ]
    )
    best = came.argmax(0)
    return np.take_along_axis(came, best[None], 0)[0], (best - _STEEPEST).astype(np.int8)
