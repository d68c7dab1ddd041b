"""Vectors that stand for radiographs in distances and nearest neighbours."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from femur_jax.data.letterbox import letterbox
from femur_jax.data.shards import RadiographDataset


def pixel_features(
    dataset: RadiographDataset, radiographs: Sequence[int], side: int
) -> Float32[np.ndarray, "n pixels"]:
    """Grey values in [0, 1] of letterboxes of side x side pixels, row by row."""
    squares = [letterbox(dataset, radiograph, (side, side))["pixels"] for radiograph in radiographs]
    return np.stack(squares).reshape(len(squares), -1).astype(np.float32) / 65535
