"""Whole radiographs of any size in squares of one size."""

from typing import TypedDict

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt16

from femur_jax.data.pyramid import shrink
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset


class Letterbox(TypedDict):
    """A whole radiograph, centred in a square."""

    pixels: UInt16[np.ndarray, "side side"]
    """Grey values; 0 around the radiograph."""
    box: Int32[np.ndarray, "4"]
    """Top, left, height and width of the radiograph within the square."""
    label: np.int32


def letterbox(dataset: RadiographDataset, radiograph: int, side: int) -> Letterbox:
    """A radiograph in a square, shrunk to fit; it is never enlarged."""
    sizes = dataset.level_sizes(radiograph)
    level = next((n for n, size in enumerate(sizes) if max(size) >= side), len(sizes) - 1)
    image = shrink(dataset.read(radiograph, level), side)
    pixels, box = place_in_square(image, side)
    return Letterbox(
        pixels=pixels,
        box=box,
        label=np.int32(LABELS.index(dataset.entries[radiograph].label)),
    )


def place_in_square(
    image: UInt16[np.ndarray, "height width"], side: int
) -> tuple[UInt16[np.ndarray, "side side"], Int32[np.ndarray, "4"]]:
    """An image of at most side x side pixels in the middle of zeros, and its box."""
    height, width = image.shape
    box = letterbox_box(height, width, side)
    top, left = box[:2]
    pixels = np.zeros((side, side), np.uint16)
    pixels[top : top + height, left : left + width] = image
    return pixels, box


def letterbox_box(height: int, width: int, side: int) -> Int32[np.ndarray, "4"]:
    """Top, left, height and width of an image of at most side x side pixels in the middle."""
    return np.array(((side - height) // 2, (side - width) // 2, height, width), np.int32)


def letterbox_mask(
    box: Int[Array | np.ndarray, "batch 4"], side: int
) -> Float[Array, "batch side side 1"]:
    """1 inside each box (top, left, height, width), 0 around it."""
    index = jnp.arange(side)
    start, length = box[:, :2, None], box[:, 2:, None]
    inside = ((index >= start) & (index < start + length)).astype(jnp.float32)
    return (inside[:, 0, :, None] * inside[:, 1, None, :])[..., None]
