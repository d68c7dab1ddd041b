"""Planted copies: training radiographs, changed as a generator may change them.

An audit that finds nothing is worth as much as the share of planted copies that it finds.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, UInt16
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from femur_jax.evaluation.features import overview
from femur_jax.evaluation.radiograph_set import RadiographSet

UNCHANGED = "unchanged"

Picture = Float32[np.ndarray, "_height _width"]
Change = Callable[[Picture, Picture, np.random.Generator], Picture]


def planted_copies(
    radiographs: RadiographSet, seed: int = 0
) -> dict[str, list[UInt16[np.ndarray, "_height _width"]]]:
    """Changed radiographs by the name of the change, each at the scale of its `overview`.

    Args:
        radiographs: The radiographs to change; the next one is the other picture of a blend.
        seed: Seed of random changes.
    """
    rng = np.random.default_rng(seed)
    pictures = [overview(*member).astype(np.float32) for member in radiographs.members]
    pairs = list(zip(pictures, pictures[1:] + pictures[:1], strict=True))
    return {
        name: [
            np.clip(np.round(change(one, _resized(other, one), rng)), 0, 65535).astype(np.uint16)
            for one, other in pairs
        ]
        for name, change in CHANGES.items()
    }


def turned(picture: Picture, degrees: float = 0.0, zoom: float = 1.0) -> Picture:
    """The picture turned and enlarged about its middle; beyond the border its pixels repeat."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    matrix = np.array([[cosine, -sine], [sine, cosine]]) / zoom
    middle = (np.array(picture.shape)[:, None, None] - 1) / 2
    centred = np.indices(picture.shape) - middle
    return _sampled(picture, np.einsum("ij,jyx->iyx", matrix, centred) + middle)


def shifted(picture: Picture, share: float) -> Picture:
    """The picture moved down and to the right by a share of its longer side."""
    return _sampled(picture, np.indices(picture.shape) - share * max(picture.shape))


def bent(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    """The picture under smooth random shifts; their standard deviation is a share of a side."""
    side = max(picture.shape)
    field = gaussian_filter(rng.normal(size=(2, *picture.shape)), (0, side / 10, side / 10))
    return _sampled(picture, np.indices(picture.shape) + field * (share * side / field.std()))


def _sampled(picture: Picture, position: Float[np.ndarray, "2 _height _width"]) -> Picture:
    return map_coordinates(picture, position, order=1, mode="nearest", output=np.float32)


def joined(picture: Picture, other: Picture, axis: int) -> Picture:
    """The first half of the picture along an axis, and the second half of another."""
    middle = picture.shape[axis] // 2
    return np.concatenate(
        [np.split(picture, [middle], axis)[0], np.split(other, [middle], axis)[1]], axis
    )


def inserted(picture: Picture, other: Picture) -> Picture:
    """Another picture with the middle of this one, a third of the height and half of the width."""
    height, width = picture.shape
    window = np.s_[height // 3 : -(height // 3), width // 4 : -(width // 4)]
    result = other.copy()
    result[window] = picture[window]
    return result


def _resized(other: Picture, like: Picture) -> Picture:
    height, width = like.shape
    image = Image.fromarray(other).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


CHANGES: dict[str, Change] = {
    UNCHANGED: lambda one, other, rng: one,
    "mirrored": lambda one, other, rng: one[:, ::-1],
    "other grey values": lambda one, other, rng: (
        65535 * (np.clip(one / 65535 * 1.2 - 0.1, 0, 1) ** 1.4).astype(np.float32)
    ),
    "5% noise": lambda one, other, rng: (
        one + np.float32(0.05 * 65535) * rng.standard_normal(one.shape, np.float32)
    ),
    "rotated by 5°": lambda one, other, rng: turned(one, 5.0),
    "rotated by 10°": lambda one, other, rng: turned(one, 10.0),
    "zoomed by 1.1": lambda one, other, rng: turned(one, zoom=1.1),
    "zoomed by 1.3": lambda one, other, rng: turned(one, zoom=1.3),
    "shifted by 8%": lambda one, other, rng: shifted(one, 0.08),
    "bent by 1%": lambda one, other, rng: bent(one, 0.01, rng),
    "blended 70/30 with another": lambda one, other, rng: 0.7 * one + 0.3 * other,
    "lower half of another": lambda one, other, rng: joined(one, other, 0),
    "right half of another": lambda one, other, rng: joined(one, other, 1),
    "only the middle": lambda one, other, rng: inserted(one, other),
}
"""Changes of one picture by name; some take another picture of the same size, or chance."""
