"""What the denoiser knows of a patch in addition to its noisy pixels and their noise level."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from femur_jax.data.radiograph import LABELS

AnyArray = Array | np.ndarray
"""An array on a device or on the host."""

NO_LABEL = len(LABELS)
"""The label of an unknown class, for classifier-free guidance."""

CHANNELS = 5
"""The number of channels of the network's input: noisy pixels, context, mask, two coordinates."""

_NUMBERS = 6  # in `Conditioning.vector`


def vector_length(levels: int) -> int:
    """Returns the length of `Conditioning.vector`."""
    return len(LABELS) + levels + _NUMBERS


class Conditioning(NamedTuple):
    """The inputs of the denoiser for a batch of patches, apart from the noisy pixels.

    Most fields are those of `loader.Patch`.
    """

    context: Float[AnyArray, "batch height width 1"]
    """The coarser level's crop in -1..1 with noise, interpolated to this level. The network ignores
    what lies outside of the radiograph, and all of it at level 0."""
    context_sigma: Float[AnyArray, "batch"]
    """The standard deviation of the noise on the context."""
    origin: Int[AnyArray, "batch 2"]
    level_size: Int[AnyArray, "batch 2"]
    size: Int[AnyArray, "batch 2"]
    level: Int[AnyArray, "batch"]
    label: Int[AnyArray, "batch"]
    """An index into LABELS, or NO_LABEL."""
    spacing_mm: Float[AnyArray, "batch"]
    mirrored: Int[AnyArray, "batch"]

    def without_label(self) -> "Conditioning":
        """Returns the same with unknown classes."""
        return self._replace(label=jnp.full_like(self.label, NO_LABEL))

    def mask(self) -> Float[Array, "batch height width 1"]:
        """Returns the validity mask: 1 within the radiograph, 0 outside."""
        rows, columns = (
            jnp.asarray(self._index(axis) < self.level_size[:, axis, None], jnp.float32)
            for axis in (0, 1)
        )
        return (rows[:, :, None] * columns[:, None, :])[..., None]

    def coordinates(self) -> Float[Array, "batch height width 2"]:
        """Returns the position of each pixel in the whole radiograph.

        Positions are those of Patch Diffusion (Wang et al. 2023, arXiv 2304.12526), but true to the
        aspect ratio: relative to the radiograph's centre, -1..1 along its longer side.
        """
        half = self.level_size / 2
        y, x = (
            (self._index(axis) + 0.5 - half[:, axis, None]) / half.max(axis=-1, keepdims=True)
            for axis in (0, 1)
        )
        return jnp.stack(jnp.broadcast_arrays(y[:, :, None], x[:, None, :]), axis=-1)

    def channels(self) -> Float[Array, "batch height width channels"]:
        """Returns the network's input channels next to the noisy pixels."""
        mask, finer = self.mask(), (self.level > 0)[:, None, None, None]
        context = jnp.where(finer, self.context, 0) * mask
        return jnp.concatenate([context, mask, self.coordinates()], axis=-1)

    def vector(self, levels: int) -> Float[Array, "batch length"]:
        """Returns class, numbers (size, spacing, mirroring, the context's noise), and level.

        The class, the level and all numbers together each have a norm of about 1, so that the
        network attends to each alike. The level is last, so that a model of more levels can start
        from one of fewer. NO_LABEL gives zeros for the class; a spacing of 0 gives the flag of an
        unknown one. The spacing is the level's, on which the appearance of bone depends. The
        network is informed of mirroring as in EDM's augmentation (Karras et al. 2022, arXiv
        2206.00364, appendix F.2), so that it does not draw the lead letters that mark a side in
        mirror writing.

        Args:
            levels: The number of levels that the model knows.
        """
        size = jnp.asarray(self.size, jnp.float32)
        reduction = size.max(axis=-1) / self.level_size.max(axis=-1)
        known = jnp.asarray(self.spacing_mm > 0, jnp.float32)
        spacing = jnp.where(self.spacing_mm > 0, self.spacing_mm, 1.0) * reduction
        context_sigma = jnp.where(self.level > 0, self.context_sigma, 0)
        numbers = [
            *(jnp.log2(size) - 8).T,
            known * jnp.log(spacing),
            known,
            jnp.log(jnp.maximum(context_sigma, 1e-3)) / 4,
            jnp.asarray(self.mirrored, jnp.float32),
        ]
        return jnp.concatenate(
            [
                jax.nn.one_hot(self.label, len(LABELS)),
                jnp.stack(numbers, axis=-1) / math.sqrt(_NUMBERS),
                jax.nn.one_hot(self.level, levels),
            ],
            axis=-1,
        )

    def _index(self, axis: int) -> Int[AnyArray, "batch side"]:
        """The rows or columns of the patches' pixels within their levels."""
        return self.origin[:, axis, None] + jnp.arange(self.context.shape[1 + axis])
