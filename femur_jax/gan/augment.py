"""Adaptive discriminator augmentation (ADA) for letterboxed radiographs.

Karras et al. 2020, arXiv 2006.06676: the discriminator sees only augmented images, real and fake,
and so cannot memorise a small number of real ones. Each transformation is applied with probability
p. Below p of about 0.8 distributions stay distinguishable by their augmented images, so the
generator does not learn the augmentations (their section 2.2 and appendix C). p follows the
discriminator's overfitting.

The transformations are those of the paper that suit a radiograph: no rotations by right angles, no
inversion, and only the small rotations of patients on a table. A curve of grey values is added.
"""

from typing import TypedDict

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

P_LIMIT = 0.8
"""The largest p that does not leak into the generator (arXiv 2006.06676, figure 3)."""

Images = Float[Array, "batch side side 1"]
PerImage = Float[Array, " batch"]
Scalar = Float[Array, ""]

# Sizes are the published ones, except for rotation and curve.
_UNIFORM = {  # largest value, either way
    "flip": 1.0,
    "rotation": jnp.pi / 12,
    "whole_pixels_y": 0.125,  # of the side, rounded to pixels
    "whole_pixels_x": 0.125,
    "curve": 0.5,  # up to here the curve of grey values rises everywhere
    "cutout": 1.0,
}
_NORMAL = {  # standard deviation
    "log2_scale": 0.2,
    "shift_y": 0.125,  # of the side
    "shift_x": 0.125,
    "log2_contrast": 0.5,
    "brightness": 0.2,  # of grey values from -1 to 1
    "noise": 0.1,  # of the noise's standard deviation
}
_CUTOUT = 0.5  # of the side


class Augmentation(TypedDict):
    """The state of ADA between steps."""

    p: Scalar
    """The probability of each transformation."""
    r_t: Scalar
    """A measure of overfitting, -1 to 1: the mean sign of D(x) - D(G(z)) over recent batches."""


def augment(
    images: Images, mask: Images, key: Key[Array, ""], p: float | Scalar
) -> tuple[Images, Images]:
    """Transforms each image and its mask by a separate draw.

    The transformation is smooth in the images almost everywhere, to any order, and exactly the
    identity for p = 0.

    Args:
        images: Grey values, mostly in -1..1; 0 where the mask is 0.
        mask: 1 within the letterbox, 0 around it.
        key: The key of the draws.
        p: The probability of each transformation.

    Returns:
        Images and masks; around the moved letterbox both are 0.
    """
    key_draws, key_noise, key_cutout = jax.random.split(key, 3)
    draws = _draw(key_draws, len(images), p)
    images, mask = _move(images, mask, draws)
    images = _shade(images, draws, key_noise)
    return _cut_out(images, draws, key_cutout) * mask, mask


def init() -> Augmentation:
    """Returns the state before the first step, with p = 0."""
    return Augmentation(p=jnp.zeros(()), r_t=jnp.zeros(()))


def adapt(
    state: Augmentation, sign: Scalar, *, target: float, batch_size: int, images: int
) -> Augmentation:
    """Increases p where the discriminator overfits, and otherwise decreases it.

    The published r_t = E[sign D(x)] (equation 1) has no meaning in a relativistic GAN, where the
    zero of the logits is arbitrary, so the sign is that of the difference of a pair.

    Args:
        state: The state of the previous step.
        sign: The mean of sign(D(x) - D(G(z))) over the batch, both augmented.
        target: The value of r_t that p maintains.
        batch_size: The number of real images in the batch.
        images: The number of real images in which p can move from 0 to 1.
    """
    r_t = state["r_t"] + (sign - state["r_t"]) / 4  # as published, a mean over four batches
    p = state["p"] + jnp.sign(r_t - target) * batch_size / images
    return Augmentation(p=jnp.clip(p, 0.0, P_LIMIT), r_t=r_t)


def _draw(key: Key[Array, ""], batch: int, p: float | Scalar) -> dict[str, PerImage]:
    """Each transformation's parameter for each image, 0 where it is not applied."""
    keys = jax.random.split(key, 3)
    uniform = jax.random.uniform(keys[0], (len(_UNIFORM), batch), minval=-1.0)
    normal = jax.random.normal(keys[1], (len(_NORMAL), batch))
    sizes = jnp.array([*_UNIFORM.values(), *_NORMAL.values()])
    values = sizes[:, None] * jnp.concatenate([uniform, normal])
    applied = jax.random.uniform(keys[2], values.shape) < p
    # Without the barrier XLA fuses the draws into their uses and repeats them for every pixel.
    values = jax.lax.optimization_barrier(jnp.where(applied, values, 0.0))
    return dict(zip([*_UNIFORM, *_NORMAL], values, strict=True))


def _move(images: Images, mask: Images, draws: dict[str, PerImage]) -> tuple[Images, Images]:
    """Flips, rotates, scales and shifts by one bilinear interpolation."""
    side = images.shape[1]
    flip = jnp.where(draws["flip"] < 0, -1, 1)  # half of the draws
    shifts = [
        jnp.round(draws[f"whole_pixels_{axis}"] * side) + draws[f"shift_{axis}"] * side
        for axis in "yx"
    ]
    # The source of each pixel, in coordinates from the centre.
    centre = (side - 1) / 2
    y, x = (
        grid - centre - shift[:, None, None]
        for grid, shift in zip(jnp.mgrid[:side, :side], shifts, strict=True)
    )
    cos, sin = (
        (f(draws["rotation"]) * jnp.exp2(-draws["log2_scale"]))[:, None, None]
        for f in (jnp.cos, jnp.sin)
    )
    source_y = centre + cos * y - sin * x
    source_x = centre + (sin * y + cos * x) * flip[:, None, None]
    source = jax.lax.optimization_barrier((source_y, source_x))
    both = _interpolate(jnp.concatenate([images, mask], axis=-1), *source)
    return both[..., :1], both[..., 1:]


def _interpolate(
    images: Float[Array, "batch side side channels"],
    y: Float[Array, "batch side side"],
    x: Float[Array, "batch side side"],
) -> Float[Array, "batch side side channels"]:
    """Bilinear interpolation with zeros outside; gathers all channels of a pixel at once."""
    batch, side, _, channels = images.shape
    pixels = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(batch, -1, channels)
    total = jnp.zeros_like(images)
    for row in (jnp.floor(y), jnp.floor(y) + 1):
        for column in (jnp.floor(x), jnp.floor(x) + 1):
            weight = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column))
            # Pixels outside come from the border of zeros.
            i, j = (jnp.clip(n + 1, 0, side + 1).astype(jnp.int32) for n in (row, column))
            index = (i * (side + 2) + j).reshape(batch, -1, 1)
            corner = jnp.take_along_axis(pixels, index, axis=1, mode="clip")
            total += weight[..., None] * corner.reshape(images.shape)
    return total


def _shade(images: Images, draws: dict[str, PerImage], key: Key[Array, ""]) -> Images:
    """Changes curve, contrast and brightness, and adds noise."""
    draws = {name: values[:, None, None, None] for name, values in draws.items()}
    # A parabola through (-1, -1) and (1, 1), and a straight line outside.
    images = images + draws["curve"] * (1 - jnp.clip(images, -1, 1) ** 2)
    images = images * jnp.exp2(draws["log2_contrast"]) + draws["brightness"]
    return images + draws["noise"] * jax.random.normal(key, images.shape)


def _cut_out(images: Images, draws: dict[str, PerImage], key: Key[Array, ""]) -> Images:
    """Sets a square around a random point of each image to zero."""
    batch, side = images.shape[:2]
    half = jnp.where(draws["cutout"] == 0, 0.0, _CUTOUT * side / 2)[:, None]
    centres = jax.random.uniform(key, (2, batch, 1)) * side
    y, x = jnp.abs(jnp.arange(side) + 0.5 - centres) < half
    return jnp.where((y[:, :, None] & x[:, None, :])[..., None], 0.0, images)
