"""Radiographs as vectors and pictures of one size, for distances and nearest neighbours."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt16
from PIL import Image

from femur_jax.data.letterbox import letterbox
from femur_jax.data.shards import RadiographDataset

THUMBNAIL_SIDE = 48
"""Pixels; enough for a radiograph to be told from all others, see `correlation`."""


def pixel_features(
    dataset: RadiographDataset, radiographs: Sequence[int], side: int
) -> Float32[np.ndarray, "n pixels"]:
    """Grey values in [0, 1] of letterboxes of side x side pixels, row by row."""
    squares = [letterbox(dataset, radiograph, (side, side))["pixels"] for radiograph in radiographs]
    return np.stack(squares).reshape(len(squares), -1).astype(np.float32) / 65535


def thumbnails(
    dataset: RadiographDataset, radiographs: Sequence[int], side: int = THUMBNAIL_SIDE
) -> Float32[np.ndarray, "n side side"]:
    """Whole radiographs in squares, grey values 0..65535; the aspect ratio is not kept.

    So a copy that a generator made at another size or aspect ratio still lies upon its original.
    """
    result = np.empty((len(radiographs), side, side), np.float32)
    for place, n in enumerate(radiographs):
        sizes = dataset.level_sizes(n)
        # The coarsest level that is not enlarged, else the finest.
        level = next((i for i, size in enumerate(sizes) if min(size) >= side), len(sizes) - 1)
        image = Image.fromarray(dataset.read(n, level).astype(np.float32))
        result[place] = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    return result


def grid_patches(
    dataset: RadiographDataset,
    radiographs: Sequence[int],
    *,
    side: int,
    stride: int,
    level: int = -1,
) -> UInt16[np.ndarray, "n side side"]:
    """Windows of side x side pixels at all multiples of a stride, within each radiograph.

    Searched with shifts of s pixels, training patches at a stride of 2 s + 1 leave no place of a
    radiograph out.

    Args:
        dataset: Where the radiographs are.
        radiographs: Positions in it; those smaller than a window have none.
        side: Pixels of the level.
        stride: The same.
        level: 0 is the coarsest, -1 the native one; a radiograph that lacks it has no windows.
    """
    windows = []
    for n in radiographs:
        if level < len(dataset.level_sizes(n)):
            image = dataset.read(n, level)
            if min(image.shape) >= side:
                views = np.lib.stride_tricks.sliding_window_view(image, (side, side))
                windows.append(views[::stride, ::stride].reshape(-1, side, side))
    return np.concatenate(windows) if windows else np.empty((0, side, side), np.uint16)
