"""Whole radiographs of any size, centred in rectangles of a few shapes."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, UInt16

from femur_jax.data.pyramid import fitted_size, resized
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset


class Letterbox(TypedDict):
    """A whole radiograph, centred in a rectangle."""

    pixels: UInt16[np.ndarray, "height width"]
    """Grey values, 0 around the radiograph."""
    box: Int32[np.ndarray, "4"]
    """Top, left, height and width of the radiograph within the rectangle."""
    label: np.int32
    columns: NotRequired[Float32[np.ndarray, " columns"]]
    """Further columns of the label table where requested, NaN where unknown."""


def letterbox(
    dataset: RadiographDataset,
    radiograph: int,
    shape: tuple[int, int],
    columns: Sequence[str] = (),
    *,
    enlarge: bool = False,
) -> Letterbox:
    """Reads a radiograph into a rectangle, reduced to fit where it is larger.

    Args:
        dataset: Dataset of the radiograph.
        radiograph: Position in the dataset.
        shape: Height and width of the rectangle.
        columns: Further columns to add, by name.
        enlarge: Whether a smaller radiograph is enlarged, so that all appear at one scale.
    """
    entry = dataset.entries[radiograph]
    sizes = dataset.level_sizes(radiograph)
    target = fitted_size(sizes[-1], shape, enlarge=enlarge)
    large_enough = (
        n for n, size in enumerate(sizes) if size[0] >= target[0] and size[1] >= target[1]
    )
    level = next(large_enough, len(sizes) - 1)
    pixels, box = paste_centred(resized(dataset.read(radiograph, level), target), shape)
    boxed = Letterbox(pixels=pixels, box=box, label=np.int32(LABELS.index(entry.label)))
    if columns:
        boxed["columns"] = entry.column_values(columns)
    return boxed


def best_shape(
    size: tuple[int, int], shapes: Sequence[tuple[int, int]], *, enlarge: bool = False
) -> int:
    """Index of the shape in which an image of a size appears largest, the first of equals.

    Args:
        size: Height and width of the image.
        shapes: Heights and widths to choose from.
        enlarge: Whether a smaller image is enlarged.
    """
    areas = [np.prod(fitted_size(size, shape, enlarge=enlarge)) for shape in shapes]
    return int(np.argmax(areas))


def paste_centred(
    image: UInt16[np.ndarray, "_ _"], shape: tuple[int, int]
) -> tuple[UInt16[np.ndarray, "height width"], Int32[np.ndarray, "4"]]:
    """Pastes an image into the centre of zeros; returns the result and the image's box."""
    box = letterbox_box(image.shape, shape)
    top, left, height, width = box
    pixels = np.zeros(shape, np.uint16)
    pixels[top : top + height, left : left + width] = image
    return pixels, box


def letterbox_box(size: tuple[int, int], shape: tuple[int, int]) -> Int32[np.ndarray, "4"]:
    """Top, left, height and width of an image of a size in the centre of a shape."""
    (height, width), (rows, columns) = size, shape
    return np.array(((rows - height) // 2, (columns - width) // 2, height, width), np.int32)


def letterbox_mask(
    box: Int[Array | np.ndarray, "batch 4"], shape: tuple[int, int]
) -> Float[Array, "batch height width 1"]:
    """1 inside each box (top, left, height, width), 0 around it."""
    rows, columns = (
        (jnp.arange(length) >= box[:, axis, None])
        & (jnp.arange(length) < box[:, axis, None] + box[:, axis + 2, None])
        for axis, length in enumerate(shape)
    )
    inside = rows[:, :, None] & columns[:, None, :]
    return inside[..., None].astype(jnp.float32)
