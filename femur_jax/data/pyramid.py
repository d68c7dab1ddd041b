"""A radiograph at several resolutions.

Level 0 is the coarsest and fits into a square of `patch` x `patch` pixels. Each further level has
twice the resolution, and the last one is the radiograph at its native size. Nothing is upsampled,
and the aspect ratio changes only by the rounding of a size to whole pixels.
"""

import math

import numpy as np
from jaxtyping import Float32, UInt16
from PIL import Image

_ROWS = 32
"""Number of rows of the coarser level that are computed at a time."""


def level_sizes(height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """Height and width of each level, coarsest first; the last is (height, width)."""
    sizes = [(height, width)]
    while max(sizes[0]) > patch:
        sizes.insert(0, (math.ceil(sizes[0][0] / 2), math.ceil(sizes[0][1] / 2)))
    return sizes


def halve(
    pixels: UInt16[np.ndarray, "height width"],
) -> UInt16[np.ndarray, "half_height half_width"]:
    """Averages blocks of 2 x 2 pixels; an odd last row or column is averaged alone."""
    height, width = pixels.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2)), mode="edge")
    half = np.empty((len(pixels) // 2, pixels.shape[1] // 2), np.uint16)
    for top in range(0, len(half), _ROWS):  # sums of a few rows stay in the processor's cache
        some = pixels[2 * top : 2 * (top + _ROWS)]
        rows = np.add(some[0::2], some[1::2], dtype=np.uint32)
        sums = rows[:, 0::2] + rows[:, 1::2]
        sums += 2
        sums >>= 2
        half[top : top + _ROWS] = sums
    return half


def pyramid(
    pixels: UInt16[np.ndarray, "height width"], patch: int
) -> list[UInt16[np.ndarray, "_ _"]]:
    """All levels of a radiograph, coarsest first."""
    levels = [pixels]
    while max(levels[0].shape) > patch:
        levels.insert(0, halve(levels[0]))
    return levels


def fitted_size(
    size: tuple[int, int], shape: tuple[int, int], *, enlarge: bool = False
) -> tuple[int, int]:
    """Height and width with which an image fits into a shape.

    Args:
        size: Height and width of the image.
        shape: Height and width of the shape.
        enlarge: Whether a smaller image is enlarged until it fills one side.
    """
    scale = min(shape[0] / size[0], shape[1] / size[1])
    scale = scale if enlarge else min(1.0, scale)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrink(
    pixels: UInt16[np.ndarray, "height width"], shape: tuple[int, int]
) -> UInt16[np.ndarray, "_ _"]:
    """Reduces an image to fit into a shape; an image that fits is returned unchanged."""
    return resized(pixels, fitted_size(pixels.shape, shape))


def resized(
    pixels: UInt16[np.ndarray, "_ _"], size: tuple[int, int]
) -> UInt16[np.ndarray, "height width"]:
    """Reduces or enlarges an image to a height and a width; the same size is returned unchanged."""
    if size == pixels.shape:
        return pixels
    height, width = size
    image = Image.fromarray(pixels.astype(np.float32))
    # Pillow antialiases; a convex combination of pixels stays within their range.
    changed = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.round(np.asarray(changed)).astype(np.uint16)


def double(pixels: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "_ _"]:
    """Interpolates linearly to twice the resolution, in the opposite direction of `halve`.

    A fine pixel's centre lies a quarter of a coarse pixel from the nearest coarse centre, so it
    is 3/4 of that pixel and 1/4 of the next. The border is repeated.
    """
    for axis in (0, 1):
        lines = np.moveaxis(pixels, axis, 0)
        before = np.concatenate([lines[:1], lines[:-1]])
        after = np.concatenate([lines[1:], lines[-1:]])
        fine = np.stack([0.75 * lines + 0.25 * before, 0.75 * lines + 0.25 * after], axis=1)
        pixels = np.moveaxis(fine.reshape(-1, *lines.shape[1:]), 0, axis)
    return pixels
