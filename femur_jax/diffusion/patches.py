"""What the denoiser sees of a patch beside its pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from femur_jax.data.radiograph import LABELS

AnyArray = Array | np.ndarray
"""On a device or the host."""

NO_LABEL = len(LABELS)
"""The label of a denoiser that is told none, for classifier-free guidance."""

CHANNELS = 5
"""Of the network's input: noisy pixels, context, validity mask, two coordinates; a wide context
adds one."""

CONDITIONS = len(LABELS) + 8
"""Length of the vector that `conditions` makes."""


class Place(NamedTuple):
    """Where a batch of patches lies; see `loader.Patch`."""

    origin: Int[AnyArray, "batch 2"]
    level_size: Int[AnyArray, "batch 2"]
    size: Int[AnyArray, "batch 2"]
    level: Int[AnyArray, "batch"]
    label: Int[AnyArray, "batch"]
    spacing_mm: Float[AnyArray, "batch"]
    mirrored: Int[AnyArray, "*batch"] = np.zeros((), np.int32)  # samples are never mirror images


def to_unit(pixels: Integer[AnyArray, "*shape"]) -> Float[Array, "*shape"]:
    """Grey values 0..65535 to -1..1."""
    return jnp.asarray(pixels, jnp.float32) / 32767.5 - 1


def wide_mask(place: Place, patch: int) -> Float[Array, "batch patch patch 1"]:
    """1 where the wide context of a patch (`loader.wide_context`) shows the radiograph."""
    scale = 2 ** jnp.minimum(place.level, 2)[:, None]
    size = -(-place.level_size // scale)
    start = (place.origin + patch // 2) // scale - patch // 2
    index = start[:, None, :] + jnp.arange(patch)[None, :, None]
    inside = jnp.asarray((index >= 0) & (index < size[:, None, :]), jnp.float32)
    return (inside[:, :, None, 0] * inside[:, None, :, 1])[..., None]


def mask_and_coordinates(
    place: Place, patch: int
) -> tuple[Float[Array, "batch patch patch 1"], Float[Array, "batch patch patch 2"]]:
    """The validity mask, and each pixel's position in the whole radiograph.

    Positions are those of Patch Diffusion (Wang et al. 2023, arXiv 2304.12526), but true to the
    aspect ratio: relative to the radiograph's centre, -1..1 along its longer side.
    """
    index = place.origin[:, None, :] + jnp.arange(patch)[None, :, None]  # batch patch (y, x)
    inside = jnp.asarray(index < place.level_size[:, None, :], jnp.float32)
    half = place.level_size[:, None, :] / 2
    position = (index + 0.5 - half) / half.max(axis=-1, keepdims=True)
    mask = inside[:, :, None, 0] * inside[:, None, :, 1]
    coordinates = jnp.stack(
        jnp.broadcast_arrays(position[:, :, None, 0], position[:, None, :, 1]), axis=-1
    )
    return mask[..., None], coordinates


def conditions(
    place: Place, context_sigma: Float[AnyArray, "batch"]
) -> Float[Array, "batch conditions"]:
    """Class, level, size, spacing, mirroring and the context's noise, each of the order of 1.

    The label NO_LABEL gives zeros for the class, a spacing of 0 the flag of an unknown one. That
    a patch is mirrored is told as EDM tells of augmentations (Karras et al. 2022, arXiv
    2206.00364, appendix F.2), lest the lead letters that mark a side be drawn in mirror writing.
    """
    known = (place.spacing_mm > 0).astype(jnp.float32)
    spacing = jnp.where(place.spacing_mm > 0, place.spacing_mm, 1.0)
    size = jnp.log2(place.size.astype(jnp.float32)) - 8
    numbers = [
        place.level / 2.0,
        (place.level == 0).astype(jnp.float32),
        size[:, 0],
        size[:, 1],
        known * jnp.log(spacing),
        known,
        jnp.log(jnp.maximum(context_sigma, 1e-3)) / 4,
        jnp.broadcast_to(place.mirrored, place.level.shape).astype(jnp.float32),
    ]
    return jnp.concatenate(
        [jax.nn.one_hot(place.label, len(LABELS)), jnp.stack(numbers, axis=-1)], axis=-1
    )
