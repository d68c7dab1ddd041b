"""The denoiser's network: a U-Net on square patches.

Residual blocks with group normalisation whose scale and shift come from the conditioning, as in
ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), and self-attention at the low resolutions.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_GROUP_SIZE = 8
_EPSILON = 1e-6
_ZEROS = nnx.initializers.zeros_init()


class UNet(nnx.Module):
    """Maps a patch with its side channels, a noise level and conditions to one channel."""

    def __init__(
        self,
        *,
        in_channels: int,
        conditions: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[bool],
        rngs: nnx.Rngs,
    ):
        """Builds the network.

        Args:
            in_channels: Of the input patch.
            conditions: Length of the conditioning vector.
            channels: At full resolution; a multiple of 8, as all widths are.
            multipliers: Width at each resolution over `channels`, finest first; the patch's
                side must be divisible by 2 ** (len(multipliers) - 1).
            blocks: Residual blocks at each resolution.
            attention: Whether the blocks of each resolution attend.
            rngs: For the initial parameters.
        """
        widths = [channels * multiplier for multiplier in multipliers]
        embedding = 4 * channels
        self.noise = Fourier(channels, rngs=rngs)
        self.embed = nnx.List(
            [
                nnx.Linear(2 * channels + conditions, embedding, rngs=rngs),
                nnx.Linear(embedding, embedding, rngs=rngs),
            ]
        )
        self.stem = _conv(in_channels, channels, rngs)
        skips, width = [channels], channels
        down, up = [], []
        for out, attends in zip(widths, attention, strict=True):
            stage = []
            for _ in range(blocks):
                stage.append(Block(width, out, embedding, attends, rngs=rngs))
                width = out
                skips.append(out)
            down.append(nnx.List(stage))
        self.middle = Block(width, width, embedding, attention[-1], rngs=rngs)
        for out, attends in reversed(list(zip(widths, attention, strict=True))):
            stage = []
            for _ in range(blocks):
                stage.append(Block(width + skips.pop(), out, embedding, attends, rngs=rngs))
                width = out
            up.append(nnx.List(stage))
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.norm = GroupNorm(width)
        self.head = _conv(width, 1, rngs, kernel_init=_ZEROS)

    def __call__(
        self,
        x: Float[Array, "batch patch patch in_channels"],
        c_noise: Float[Array, "batch"],
        conditions: Float[Array, "batch conditions"],
    ) -> Float[Array, "batch patch patch 1"]:
        """The raw network F of the preconditioned denoiser."""
        embedding = jnp.concatenate([self.noise(c_noise), conditions], axis=-1)
        for layer in self.embed:
            embedding = jax.nn.silu(layer(embedding))
        x = self.stem(x)
        skips = [x]
        for depth, stage in enumerate(self.down):
            if depth:
                x = nnx.avg_pool(x, (2, 2), (2, 2))
            for block in stage:
                x = block(x, embedding)
                skips.append(x)
        x = self.middle(x, embedding)
        for depth, stage in enumerate(self.up):
            if depth:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
            for block in stage:
                x = block(jnp.concatenate([x, skips.pop()], axis=-1), embedding)
        return self.head(jax.nn.silu(self.norm(x)))


class Fourier(nnx.Module):
    """Random Fourier features of a number (Tancik et al. 2020, arXiv 2006.10739)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.frequencies = nnx.Param(jax.random.normal(rngs.params(), (features,)))

    def __call__(self, x: Float[Array, "batch"]) -> Float[Array, "batch twice_features"]:
        # Fixed, as in the source: a gradient would reshape the embedding during training.
        phase = 2 * jnp.pi * x[:, None] * jax.lax.stop_gradient(self.frequencies[...])
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018, arXiv 1803.08494), with groups of 8 channels.

    Normalisation, its own scale and bias, and the modulation are one multiplication and one
    addition per channel, since a training step on CPU waits for memory more than for sums.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        modulation: Sequence[Float[Array, "batch channels"]] = (),
    ) -> Float[Array, "batch height width channels"]:
        """Normalises; then, with a `modulation` (scale, shift), y becomes y (1 + scale) + shift."""

        def group_mean(y: Float[Array, "batch height width channels"]):
            groups = y.mean((1, 2)).reshape(len(y), -1, _GROUP_SIZE)
            return groups.mean(-1).repeat(_GROUP_SIZE, axis=-1)

        mean = group_mean(x)
        variance = group_mean(jnp.square(x)) - jnp.square(mean)
        gain = self.scale[...] * jax.lax.rsqrt(variance + _EPSILON)
        offset = self.bias[...] - gain * mean
        if modulation:
            scale, shift = modulation
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return gain[:, None, None] * x + offset[:, None, None]


class Block(nnx.Module):
    """Residual block, modulated by an embedding, optionally with self-attention."""

    def __init__(
        self, in_channels: int, channels: int, embedding: int, attends: bool, *, rngs: nnx.Rngs
    ):
        self.norm1 = GroupNorm(in_channels)
        self.conv1 = _conv(in_channels, channels, rngs)
        self.modulation = nnx.Linear(embedding, 2 * channels, rngs=rngs)
        self.norm2 = GroupNorm(channels)
        self.conv2 = _conv(channels, channels, rngs, kernel_init=_ZEROS)
        self.skip = nnx.data(None)
        if in_channels != channels:
            self.skip = nnx.Linear(in_channels, channels, rngs=rngs)
        self.attention = nnx.data(SelfAttention(channels, rngs=rngs) if attends else None)

    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        embedding: Float[Array, "batch embedding"],
    ) -> Float[Array, "batch height width channels"]:
        modulation = jnp.split(self.modulation(embedding), 2, axis=-1)
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h, modulation)))
        x = (h + (x if self.skip is None else _pointwise(self.skip, x))) / jnp.sqrt(2)
        return x if self.attention is None else self.attention(x)


class SelfAttention(nnx.Module):
    """One head of self-attention over all places, with a residual connection."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels)
        self.qkv = nnx.Linear(channels, 3 * channels, rngs=rngs)
        self.out = nnx.Linear(channels, channels, kernel_init=_ZEROS, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        batch, height, width, channels = x.shape
        qkv = _pointwise(self.qkv, self.norm(x)).reshape(batch, height * width, 1, 3 * channels)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        y = jax.nn.dot_product_attention(q, k, v)
        return (x + _pointwise(self.out, y.reshape(x.shape))) / jnp.sqrt(2)


def _pointwise(
    layer: nnx.Linear, x: Float[Array, "batch height width in_channels"]
) -> Float[Array, "batch height width channels"]:
    """A linear map of each pixel, as one matrix product: its gradient copies less on CPU."""
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _conv(in_channels: int, channels: int, rngs: nnx.Rngs, **initializers) -> nnx.Conv:
    return nnx.Conv(in_channels, channels, (3, 3), rngs=rngs, **initializers)
