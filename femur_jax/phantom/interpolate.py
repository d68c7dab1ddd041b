"""Linear interpolation of coarse grids, and Gaussian smoothing on coarse grids."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Real
from scipy import ndimage


def bilinear(
    grid: Float32[np.ndarray, "*channels rows columns"],
    row: Float[np.ndarray, "points"],
    column: Float[np.ndarray, "points"],
) -> Float32[np.ndarray, "*channels points"]:
    """Interpolates between the points of a grid; beyond the grid its edge values hold."""
    height, width = grid.shape[-2:]
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    top = np.minimum(row.astype(np.int32), max(height - 2, 0))
    left = np.minimum(column.astype(np.int32), max(width - 2, 0))
    down, right = (row - top).astype(np.float32), (column - left).astype(np.float32)
    flat = grid.reshape(*grid.shape[:-2], -1)
    corner = top * width + left
    next_row, next_column = (width if height > 1 else 0), int(width > 1)
    upper = flat[..., corner] * (1 - right) + flat[..., corner + next_column] * right
    corner += next_row
    lower = flat[..., corner] * (1 - right) + flat[..., corner + next_column] * right
    return upper * (1 - down) + lower * down


@dataclass(frozen=True)
class Smooth:
    """An image without detail, represented by a coarse grid.

    Attributes:
        values: Values at every `step`-th pixel, starting with the first.
        step: Distance of the grid's points, pixels.
    """

    values: Float32[np.ndarray, "rows columns"]
    step: int

    def at(
        self, row: Real[np.ndarray, "points"], column: Real[np.ndarray, "points"]
    ) -> Float32[np.ndarray, "points"]:
        """Values at positions in pixels."""
        return bilinear(self.values, row / self.step, column / self.step)

    def widened(self, width: int) -> Float32[np.ndarray, "rows width"]:
        """The rows of the grid, interpolated at all `width` columns of the image."""
        x = np.clip(np.arange(width) / self.step, 0, self.values.shape[1] - 1)
        left = np.minimum(x.astype(int), max(self.values.shape[1] - 2, 0))
        right = np.minimum(left + 1, self.values.shape[1] - 1)
        share = (x - left).astype(np.float32)
        return self.values[:, left] * (1 - share) + self.values[:, right] * share


def gaussian(image: Float32[np.ndarray, "height width"], sigma: float) -> Smooth:
    """Blurs an image by a Gaussian of `sigma` pixels, on a grid with a step of about sigma / 4.

    The image is sampled, not averaged: structure finer than the grid must be weak or random.
    """
    step = max(1, int(sigma / 4))
    # The last points lie at or beyond the image's edge, where the edge values hold.
    rows, columns = (np.minimum(np.arange(0, n - 1 + step, step), n - 1) for n in image.shape)
    coarse = image[rows[:, None], columns]
    return Smooth(ndimage.gaussian_filter(coarse, sigma / step, mode="nearest"), step)
