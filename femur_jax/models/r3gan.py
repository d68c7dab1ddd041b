"""R3GAN's generator and discriminator (Huang et al. 2024, arXiv 2501.05441, section 3).

Both are stacks of inverted residual bottlenecks at sizes 4, 8, ..., `size`, without normalisation.
The discriminator mirrors the generator. Convolutions have no bias, but each activation has one.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from femur_jax.errors import UserError

_EXPANSION = 2  # ratio of the channels inside a block to those of its input
_SLOPE = 0.2  # slope of the leaky ReLU below zero
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))  # the leaky ReLU keeps the variance (He et al. 2015)
_FINE_SIZES = 4  # number of the finest sizes that compute in `dtype`, as in the published presets


def _scaled(gain: float) -> nnx.Initializer:
    """Normal weights with standard deviation gain / sqrt(fan in)."""
    return nnx.initializers.variance_scaling(gain**2, "fan_in", "normal")


def _linear(
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    *,
    gain: float = 1.0,
    dtype: DTypeLike | None = None,
) -> nnx.Linear:
    """A linear layer, which on images is a 1 x 1 convolution as a matrix product."""
    return nnx.Linear(
        inputs, outputs, use_bias=False, kernel_init=_scaled(gain), dtype=dtype, rngs=rngs
    )


class BiasedActivation(nnx.Module):
    """A bias for each channel, then a leaky ReLU."""

    def __init__(self, channels: int):
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        return jax.nn.leaky_relu(x + self.bias[...].astype(x.dtype), _SLOPE)


class ResidualBlock(nnx.Module):
    """A residual block of 1 x 1 (widening), 3 x 3 (grouped) and 1 x 1 (narrowing) convolutions.

    The initialisation is Fix-up (Zhang et al. 2019, arXiv 1901.09321). The last layer starts at
    zero, so a block starts as the identity. The other m - 1 = 2 layers are scaled by
    L^(-1 / (2m - 2)) for a network of L = `depth` blocks, so that the first updates do not grow
    with depth.
    """

    def __init__(
        self,
        channels: int,
        group_width: int | None,
        depth: int,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
    ):
        inner = _EXPANSION * channels
        gain = _GAIN * depth ** (-1 / 4)
        self.widen = _linear(channels, inner, rngs, gain=gain, dtype=dtype)
        self.activation1 = BiasedActivation(inner)
        self.spatial = nnx.Conv(
            inner,
            inner,
            (3, 3),
            feature_group_count=inner // (group_width or inner),
            use_bias=False,
            kernel_init=_scaled(gain),
            dtype=dtype,
            rngs=rngs,
        )
        self.activation2 = BiasedActivation(inner)
        self.narrow = _linear(inner, channels, rngs, gain=0.0, dtype=dtype)

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        y = self.activation1(self.widen(x))
        y = self.activation2(self.spatial(y))
        return x.astype(y.dtype) + self.narrow(y)


def resample(
    x: Float[Array, "batch h w channels"], size: int
) -> Float[Array, "batch {size} {size} channels"]:
    """Bilinear resampling by a factor of two, up or down, with zeros around the image.

    Pixels are centred at half integers, which gives the low-pass [1, 3, 3, 1] in both directions.
    """
    border = 1 if size > x.shape[1] else 2  # input pixels; the output has twice or half as many
    excess = 2 // border
    padded = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    side = size + 2 * excess
    resized = jax.image.resize(padded, (x.shape[0], side, side, x.shape[3]), "linear")
    return resized[:, excess:-excess, excess:-excess]


class Upsample(nnx.Module):
    """Doubles the side, after a 1 x 1 convolution if the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        self.mix = _linear(inputs, outputs, rngs, dtype=dtype) if inputs != outputs else None

    def __call__(
        self, x: Float[Array, "batch h h inputs"]
    ) -> Float[Array, "batch 2*h 2*h outputs"]:
        x = x if self.mix is None else self.mix(x)
        return resample(x, 2 * x.shape[1])


class Downsample(nnx.Module):
    """Halves the side, before a 1 x 1 convolution if the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        self.mix = _linear(inputs, outputs, rngs, dtype=dtype) if inputs != outputs else None

    def __call__(
        self, x: Float[Array, "batch h h inputs"]
    ) -> Float[Array, "batch h//2 h//2 outputs"]:
        x = resample(x, x.shape[1] // 2)
        return x if self.mix is None else self.mix(x)


class GenerativeBasis(nnx.Module):
    """A learned 4 x 4 pattern for each channel, weighted by a linear map of the input."""

    def __init__(self, inputs: int, channels: int, rngs: nnx.Rngs):
        self.basis = nnx.Param(jax.random.normal(rngs.params(), (4, 4, channels)))
        self.weight = _linear(inputs, channels, rngs)

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch 4 4 channels"]:
        return self.basis * self.weight(x)[:, None, None, :]


class DiscriminativeBasis(nnx.Module):
    """The inner product of each channel with a learned 4 x 4 pattern, then a linear map."""

    def __init__(self, channels: int, outputs: int, rngs: nnx.Rngs):
        self.basis = nnx.Param(jax.random.normal(rngs.params(), (4, 4, channels)) / 4)
        self.weight = _linear(channels, outputs, rngs)

    def __call__(self, x: Float[Array, "batch 4 4 channels"]) -> Float[Array, "batch outputs"]:
        return self.weight(jnp.sum(x * self.basis, axis=(1, 2)))


class Generator(nnx.Module):
    """Generates square one-channel images from latents and conditions.

    Args:
        size: Side of the images in pixels, 4 * 2^k.
        channels: Number of channels for each of the sizes 4, 8, ..., `size`; k + 1 numbers.
        latent: Dimension of the latent z.
        condition: Dimension of the condition vector.
        embedding: Dimension of the embedded condition that is joined to z.
        blocks: Number of residual blocks for each size.
        group_width: Channels in a group of the 3 x 3 convolutions, which have twice as many
            channels as their size. The paper uses 16. None means one group, which is far faster on
            CPUs, where gradients of grouped convolutions are slow.
        dtype: Type in which the four finest sizes except 4 x 4 compute, None for the type of their
            inputs.
        rngs: Random streams for the initial parameters, which are float32.

    Raises:
        UserError: The sizes do not fit together.
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        latent: int,
        condition: int,
        *,
        embedding: int = 64,
        blocks: int = 2,
        group_width: int | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        _check(size, channels, group_width)
        residual = partial(_residual_blocks, blocks, group_width, blocks * len(channels), rngs)
        self.embed = _linear(condition, embedding, rngs)
        layers = [GenerativeBasis(latent + embedding, channels[0], rngs), *residual(channels[0])]
        for (inputs, outputs), fine in zip(
            pairwise(channels), _dtypes(channels, dtype), strict=True
        ):
            layers += [Upsample(inputs, outputs, rngs, fine), *residual(outputs, fine)]
        layers += [_linear(channels[-1], 1, rngs)]
        self.layers = nnx.List(layers)

    def __call__(
        self, z: Float[Array, "batch latent"], condition: Float[Array, "batch condition"]
    ) -> Float[Array, "batch size size 1"]:
        """Generates one image for each latent.

        Args:
            z: Latents from the standard normal distribution.
            condition: Class (one-hot) and numbers of order one that describe the image.

        Returns:
            Grey values on the scale of the training images, without limits.
        """
        x = jnp.concatenate([z, self.embed(condition)], axis=-1)
        for layer in self.layers:
            x = layer(x)
        return x


class Discriminator(nnx.Module):
    """Scores square images under a condition.

    The features at 4 x 4 become a vector with one number per channel. The logit is the inner
    product of this vector with the embedded condition (Miyato & Koyama 2018, arXiv 1802.05637).

    Args:
        size: Side of the images in pixels, 4 * 2^k.
        channels: Number of channels for each of the sizes 4, 8, ..., `size`, as in `Generator`.
        in_channels: Number of channels of the images.
        condition: Dimension of the condition vector.
        blocks: Number of residual blocks for each size.
        group_width: Channels in a group of the 3 x 3 convolutions, as in `Generator`.
        dtype: Type in which the finest sizes compute, as in `Generator`.
        rngs: Random streams for the initial parameters, which are float32.

    Raises:
        UserError: The sizes do not fit together.
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        in_channels: int,
        condition: int,
        *,
        blocks: int = 2,
        group_width: int | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        _check(size, channels, group_width)
        residual = partial(_residual_blocks, blocks, group_width, blocks * len(channels), rngs)
        transitions = list(zip(pairwise(channels), _dtypes(channels, dtype), strict=True))
        embedding = channels[0]
        layers = [_linear(in_channels, channels[-1], rngs)]
        for (outputs, inputs), fine in reversed(transitions):
            layers += [*residual(inputs, fine), Downsample(inputs, outputs, rngs, fine)]
        layers += [*residual(channels[0]), DiscriminativeBasis(channels[0], embedding, rngs)]
        # They are counted from the coarsest, so that networks of two sizes share the first numbers.
        self.layers = nnx.List(reversed(layers))
        # With this gain, the inner product of `embedding` terms starts with unit variance.
        self.embed = _linear(condition, embedding, rngs, gain=embedding**-0.5)

    def __call__(
        self,
        image: Float[Array, "batch size size in_channels"],
        condition: Float[Array, "batch condition"],
    ) -> Float[Array, " batch"]:
        """The logit of each image, which is higher for real images.

        Args:
            image: Grey values and any further channels.
            condition: Class (one-hot) and numbers of order one that describe the image. If all are
                zero, the logit is zero.
        """
        x = image
        for layer in reversed(self.layers):
            x = layer(x)
        return jnp.sum(x * self.embed(condition), axis=-1)


def _residual_blocks(
    count: int,
    group_width: int | None,
    depth: int,
    rngs: nnx.Rngs,
    channels: int,
    dtype: DTypeLike | None = None,
) -> list[ResidualBlock]:
    return [ResidualBlock(channels, group_width, depth, rngs, dtype) for _ in range(count)]


def _dtypes(channels: Sequence[int], dtype: DTypeLike | None) -> list[DTypeLike | None]:
    """The type of each size after 4 x 4."""
    fine = min(_FINE_SIZES, len(channels) - 1)
    return [None] * (len(channels) - 1 - fine) + [dtype] * fine


def _check(size: int, channels: Sequence[int], group_width: int | None) -> None:
    """Raises a UserError unless the sizes fit together."""
    if size < 4 or size & (size - 1):
        raise UserError(
            f"GAN image size {size} is not 4 times a power of two; use 32, 64, 128, ..."
        )
    sizes = [2**k for k in range(2, size.bit_length())]
    if len(channels) != len(sizes):
        raise UserError(
            f"GAN channels {tuple(channels)} are {len(channels)} numbers, but size {size} needs "
            f"{len(sizes)}: one for each of the sizes {', '.join(map(str, sizes))}."
        )
    if min(channels) < 1:
        raise UserError(f"GAN channels {tuple(channels)} must all be 1 or more.")
    for width in channels:
        if group_width is not None and _EXPANSION * width % group_width:
            raise UserError(
                f"GAN group_width {group_width} does not divide {_EXPANSION * width}, "
                f"{_EXPANSION} times {width} channels; change one of them."
            )
