"""Draws a smooth image with sharp edges from few samples: a grid refined where it is not linear."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

Sample = Callable[[Int[np.ndarray, "points"], Int[np.ndarray, "points"]], np.ndarray]
"""A function of rows and columns of the finest grid with float32 values [channels, points]."""


def coarse_grid(
    shape: tuple[int, int], step: int
) -> tuple[Int[np.ndarray, "rows"], Int[np.ndarray, "columns"]]:
    """Rows and columns of every `step`-th pixel; the last is at the image's edge or beyond it."""
    height, width = (-(-(side - 1) // step) + 1 for side in shape)
    return step * np.arange(height), step * np.arange(width)


@dataclass(frozen=True)
class Refined:
    """An image represented by its values on a grid and at further points.

    Attributes:
        grid: Values at every pixel or, if `halved`, at every second one, from the first.
        halved: Whether the pixels between those of the grid are interpolated.
        points: Indices into the flattened image, in rising order, of further values.
        values: Values at these points.
        shape: Height and width of the image.
        sampled: Number of points sampled, including those of the grids.
    """

    grid: Float32[np.ndarray, "channels rows columns"]
    halved: bool
    points: Int[np.ndarray, "points"]
    values: Float32[np.ndarray, "channels points"]
    shape: tuple[int, int]
    sampled: int

    def rows(self, top: int, bottom: int) -> Float32[np.ndarray, "channels rows width"]:
        """Rows from `top` to before `bottom`, so that a large image never exists as a whole."""
        width = self.shape[1]
        if not self.halved:
            return self.grid[:, top:bottom, :width].copy()
        finer = _doubled(self.grid[:, top // 2 : bottom // 2 + 1])
        first = top % 2
        block = np.ascontiguousarray(finer[:, first : first + bottom - top, :width])
        points = slice(*np.searchsorted(self.points, [top * width, bottom * width]))
        block.reshape(len(block), -1)[:, self.points[points] - top * width] = self.values[:, points]
        return block


def refine(
    sample: Sample,
    coarse: Float32[np.ndarray, "channels rows columns"],
    step: int,
    shape: tuple[int, int],
    tolerance: float,
    watched: Bool[np.ndarray, "rows columns"],
) -> Refined:
    """Draws an image from samples on a coarse grid and at further points where it is not linear.

    The grid's step is halved repeatedly. New points are sampled next to points at which the linear
    interpolation of the previous level is wrong by more than the tolerance, and are interpolated
    elsewhere (hierarchical surplus: Bungartz and Griebel, Acta Numerica 2004;13:147-269).

    Args:
        sample: The function to draw.
        coarse: Values of the function on `coarse_grid(shape, step)`.
        step: Pixels between points of the coarse grid, a power of 2.
        shape: Height and width of the image.
        tolerance: Largest accepted error of interpolation in the first channel.
        watched: Points of the coarse grid around which the next level is always sampled.
    """
    grid, sampled = coarse, coarse[0].size
    exact = np.empty((len(coarse), 0), np.float32)
    points = np.empty(0, int)
    halved = step > 1
    # The coarsest level has no surplus yet. A quarter of the second difference estimates it.
    rough = watched.copy()
    for axis in (0, 1):
        bent = np.abs(np.diff(coarse[0], 2, axis=axis)) > 4.0 * tolerance
        rough[(slice(None),) * axis + (slice(1, -1),)] |= bent
    rows, columns = np.nonzero(rough)
    while step > 1:
        step //= 2
        # Points of the grid beyond the image are not needed.
        near = _neighbours(rows, columns, (-(-shape[0] // step), -(-shape[1] // step)))
        rows, columns = np.divmod(np.flatnonzero(near), near.shape[1])
        exact = sample(step * rows, step * columns)
        sampled += len(rows)
        if step > 1:
            grid = _doubled(grid)
            surplus = np.abs(exact[0] - grid[0, rows, columns])
            grid[:, rows, columns] = exact
            rows, columns = rows[surplus > tolerance], columns[surplus > tolerance]
        else:
            points = rows * shape[1] + columns
    return Refined(grid, halved, points, exact, shape, sampled)


def _neighbours(
    rows: Int[np.ndarray, "points"], columns: Int[np.ndarray, "points"], shape: tuple[int, int]
) -> Bool[np.ndarray, "finer_rows finer_columns"]:
    """Mask of the new points of a grid twice as fine that are next to given points of a grid."""
    near = np.zeros(shape, bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near[
                np.clip(2 * rows + down, 0, shape[0] - 1),
                np.clip(2 * columns + right, 0, shape[1] - 1),
            ] = True
    near[::2, ::2] = False  # the coarser grid holds these
    return near


def _doubled(
    values: Float32[np.ndarray, "channels rows columns"],
) -> Float32[np.ndarray, "channels finer_rows finer_columns"]:
    """A grid with a linearly interpolated point between every two points."""
    channels, height, width = values.shape
    finer = np.empty((channels, 2 * height - 1, 2 * width - 1), np.float32)
    known = finer[:, ::2]
    known[..., ::2] = values
    np.add(values[..., :-1], values[..., 1:], out=known[..., 1::2])
    known[..., 1::2] *= np.float32(0.5)
    np.add(known[:, :-1], known[:, 1:], out=finer[:, 1::2])
    finer[:, 1::2] *= np.float32(0.5)
    return finer
