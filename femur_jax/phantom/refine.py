"""A smooth image with sharp edges from few samples: a grid refined where it is not linear."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int

Sample = Callable[[Int[np.ndarray, "points"], Int[np.ndarray, "points"]], np.ndarray]
"""Values, float32 of shape [channels, points], at rows and columns of the finest grid."""


def coarse_grid(
    shape: tuple[int, int], step: int
) -> tuple[Int[np.ndarray, "rows"], Int[np.ndarray, "columns"]]:
    """Rows and columns of every `step`-th pixel, the last beyond the image or at its edge."""
    height, width = (-(-(side - 1) // step) + 1 for side in shape)
    return step * np.arange(height), step * np.arange(width)


def refine(
    sample: Sample,
    coarse: Float32[np.ndarray, "channels rows columns"],
    step: int,
    shape: tuple[int, int],
    tolerance: float,
) -> tuple[Float32[np.ndarray, "channels height width"], int]:
    """Fills an image from samples on a coarse grid and from more where they are needed.

    The grid is halved again and again. New points are sampled beside points at which the linear
    interpolation of the level before was wrong by more than the tolerance, and are interpolated
    elsewhere (hierarchical surplus: Bungartz and Griebel, Acta Numerica 2004;13:147-269).

    Args:
        sample: What to draw.
        coarse: Its values on `coarse_grid(shape, step)`.
        step: Pixels between points of the coarse grid, a power of 2.
        shape: Height and width of the image.
        tolerance: Largest error of interpolation in the first channel that is let pass.

    Returns:
        The image, and how many points were sampled.
    """
    values, sampled = coarse, 0
    # On the coarsest level curvature tells: a quarter of it is the surplus at a midpoint.
    rough = np.zeros(coarse.shape[1:], bool)
    first = coarse[0]
    for axis in (0, 1):
        bent = np.abs(np.diff(first, 2, axis=axis)) > 4.0 * tolerance
        rough[(slice(None),) * axis + (slice(1, -1),)] |= bent
    rows, columns = np.nonzero(rough)
    while step > 1:
        step //= 2
        values = _doubled(values)
        height, width = values.shape[1:]
        near = np.zeros((height, width), bool)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                near[
                    np.clip(2 * rows + down, 0, height - 1),
                    np.clip(2 * columns + right, 0, width - 1),
                ] = True
        near[::2, ::2] = False  # these are known
        # What the grid has beyond the image is of no use.
        near[-(-shape[0] // step) :] = near[:, -(-shape[1] // step) :] = False
        rows, columns = np.divmod(np.flatnonzero(near), width)
        exact = sample(step * rows, step * columns)
        surplus = np.abs(exact[0] - values[0, rows, columns])
        values[:, rows, columns] = exact
        sampled += len(rows)
        rows, columns = rows[surplus > tolerance], columns[surplus > tolerance]
    return values[:, : shape[0], : shape[1]], sampled


def _doubled(
    values: Float32[np.ndarray, "channels rows columns"],
) -> Float32[np.ndarray, "channels finer_rows finer_columns"]:
    """The same with a linearly interpolated point between every two."""
    channels, height, width = values.shape
    finer = np.empty((channels, 2 * height - 1, 2 * width - 1), np.float32)
    known = finer[:, ::2]
    known[..., ::2] = values
    np.add(values[..., :-1], values[..., 1:], out=known[..., 1::2])
    known[..., 1::2] *= np.float32(0.5)
    np.add(known[:, :-1], known[:, 1:], out=finer[:, 1::2])
    finer[:, 1::2] *= np.float32(0.5)
    return finer
