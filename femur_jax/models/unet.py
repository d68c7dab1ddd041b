"""The denoiser's network: a U-Net on square patches.

The network has residual blocks with group normalisation, whose scale and shift come from the
conditioning as in ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), and self-attention at the low
resolutions. Parameters, normalisation and conditioning are always float32; only convolutions and
attention compute in `dtype`.

On a GPU, passes over memory take as much time as the arithmetic, so blocks are computed there with
fewer of them: the same function to rounding, with the same parameters.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from femur_jax.models.backend import backend
from femur_jax.models.norm_silu import norm_silu

_GROUP_SIZE = 8
_EPSILON = 1e-6
_DROPOUT_SIDE = 64  # largest resolution with dropout: at higher ones, random bits take the time
_HALF_POWER = math.sqrt(0.5)  # keeps the variance of a sum of two
_ZEROS = nnx.initializers.zeros_init()
_Layer = TypeVar("_Layer", nnx.Linear, nnx.Conv)


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
        head_channels: int,
        dropout: float,
        uncertainty: bool,
        dtype: str,
        remat: bool,
        rngs: nnx.Rngs,
    ):
        """Builds the network.

        Args:
            in_channels: Number of channels of the input patch.
            conditions: Length of the conditioning vector.
            channels: Number of channels at full resolution. All widths are multiples of 8.
            multipliers: Ratio of the width at each resolution to `channels`, finest first. The
                patch's side must be divisible by 2 ** (len(multipliers) - 1).
            blocks: Number of residual blocks at each resolution.
            attention: Whether the blocks of each resolution have self-attention.
            head_channels: Width of an attention head; a narrower block has one head.
            dropout: Share of a block's activations that are set to zero in training, rounded to
                a multiple of 1/256, at resolutions of at most 64 pixels (low ones only as in simple
                diffusion, Hoogeboom et al. 2023, arXiv 2301.11093).
            uncertainty: Whether the network has the head of `log_variance`.
            dtype: Type in which convolutions and attention compute, 'float32' or 'bfloat16'.
            remat: Whether the backward pass recomputes the activations of each block instead of
                keeping them.
            rngs: Random streams for the initial parameters.
        """
        widths = [channels * multiplier for multiplier in multipliers]
        embedding = 4 * channels
        self._remat = remat
        self.noise = Fourier(channels, rngs=rngs)
        self.embed = nnx.List(
            [
                nnx.Linear(2 * channels + conditions, embedding, rngs=rngs),
                nnx.Linear(embedding, embedding, rngs=rngs),
            ]
        )
        self.stem = _conv(in_channels, channels, dtype, rngs)

        def block(width: int, out: int, attends: bool) -> Block:
            heads = max(1, out // head_channels) if attends else 0
            return Block(
                width, out, embedding, heads=heads, dropout=dropout, dtype=dtype, rngs=rngs
            )

        skips, width = [channels], channels
        down, up = [], []
        for out, attends in zip(widths, attention, strict=True):
            stage = []
            for _ in range(blocks):
                stage.append(block(width, out, attends))
                width = out
                skips.append(out)
            down.append(nnx.List(stage))
        self.middle = block(width, width, attention[-1])
        for out, attends in reversed(list(zip(widths, attention, strict=True))):
            stage = []
            for _ in range(blocks):
                stage.append(block(width + skips.pop(), out, attends))
                width = out
            up.append(nnx.List(stage))
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.norm = GroupNorm(width)
        self.head = _conv(width, 1, dtype, rngs, kernel_init=_ZEROS)
        self.uncertainty = nnx.data(None)
        if uncertainty:
            inputs = 2 * channels + conditions
            self.uncertainty = nnx.Linear(inputs, 1, kernel_init=_ZEROS, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch patch patch in_channels"],
        c_noise: Float[Array, "batch"],
        conditions: Float[Array, "batch conditions"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch patch patch 1"]:
        """The raw network F of the preconditioned denoiser, in float32.

        Args:
            x: The noisy patch, of about unit variance, and its side channels.
            c_noise: A quarter of the logarithm of the noise level.
            conditions: The conditioning vector from `diffusion.conditioning.Conditioning.vector`.
                Entries of a norm of 1 together weigh as much as the noise level.
            key: PRNG key of dropout, None for no dropout.
        """
        embedding = self._conditions(c_noise, conditions)
        for layer in self.embed:
            embedding = jax.nn.silu(layer(embedding))
        stages = [*self.down, [self.middle], *self.up]
        count = sum(len(stage) for stage in stages)
        keys = iter([None] * count if key is None else jax.random.split(key, count))

        def run(block: Block, x: Array, skip: Array | None = None) -> Array:
            function = jax.checkpoint(block) if self._remat else block
            return function(x, embedding, next(keys), skip)

        x = self.stem(x)
        skips = [x]
        for depth, stage in enumerate(self.down):
            if depth:
                x = nnx.avg_pool(x, (2, 2), (2, 2))
            for block in stage:
                x = run(block, x)
                skips.append(x)
        x = run(self.middle, x)
        for stage in self.up:
            for block in stage:
                x = run(block, x, skips.pop())
        [x] = self.norm.silu([x])
        return self.head(x).astype(jnp.float32)

    def log_variance(
        self, c_noise: Float[Array, "batch"], conditions: Float[Array, "batch conditions"]
    ) -> Float[Array, "batch"]:
        """The u of `edm.uncertainty_loss`: the learned logarithm of the expected loss.

        It depends on the conditions, since losses of levels differ tenfold at the same noise.
        """
        assert self.uncertainty is not None
        return self.uncertainty(self._conditions(c_noise, conditions))[:, 0]

    def _conditions(
        self, c_noise: Float[Array, "batch"], conditions: Float[Array, "batch conditions"]
    ) -> Float[Array, "batch features"]:
        noise = self.noise(c_noise)
        norm = math.sqrt(noise.shape[-1] / 2)  # of cosines and sines
        return jnp.concatenate([noise, norm * conditions], axis=-1)


class Fourier(nnx.Module):
    """Random Fourier features of a number (Tancik et al. 2020, arXiv 2006.10739)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.frequencies = nnx.Param(jax.random.normal(rngs.params(), (features,)))

    def __call__(self, x: Float[Array, "batch"]) -> Float[Array, "batch twice_features"]:
        # The frequencies are fixed, as in the source: otherwise training changes the embedding.
        phase = 2 * jnp.pi * x[:, None] * jax.lax.stop_gradient(self.frequencies[...])
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018, arXiv 1803.08494) with groups of 8 channels.

    Normalisation, scale, bias and modulation are combined to one multiplication and one addition
    per channel, since memory bandwidth limits a training step on CPU.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        modulation: Sequence[Float[Array, "batch channels"]] = (),
    ) -> Float[Array, "batch height width channels"]:
        """Normalises x to y and returns y, or with a `modulation` y (1 + scale) + shift.

        Sums are computed in float32, and the result has the type of `x`.
        """
        y = x.astype(jnp.float32)

        def group_mean(y: Float[Array, "batch height width channels"]):
            groups = y.mean((1, 2)).reshape(len(y), -1, _GROUP_SIZE)
            return groups.mean(-1).repeat(_GROUP_SIZE, axis=-1)

        mean = group_mean(y)
        # Rounding can make the difference negative.
        variance = jnp.maximum(group_mean(jnp.square(y)) - jnp.square(mean), 0)
        gain = self.scale[...] * jax.lax.rsqrt(variance + _EPSILON)
        offset = self.bias[...] - gain * mean
        if modulation:
            scale, shift = modulation
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return (gain[:, None, None] * y + offset[:, None, None]).astype(x.dtype)

    def silu(
        self,
        parts: Sequence[Float[Array, "batch _ _ _"]],
        modulation: Sequence[Float[Array, "batch channels"]] = (),
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The SiLU of what `__call__` returns.

        Args:
            parts: Activations whose channels together are those of this layer.
            modulation: Scale and shift as for `__call__`; for a single part.
        """
        if backend() != "gpu":
            return [jax.nn.silu(self(part, modulation)) for part in parts]
        ends = list(itertools.accumulate(part.shape[-1] for part in parts))
        results = []
        for part, end in zip(parts, ends, strict=True):
            channels = slice(end - part.shape[-1], end)
            shape = (len(part), part.shape[-1])
            gain = jnp.broadcast_to(self.scale[channels], shape)
            offset = jnp.broadcast_to(self.bias[channels], shape)
            if modulation:
                scale, shift = modulation
                gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
            results.append(norm_silu(part, gain, offset, _GROUP_SIZE, _EPSILON))
        return results


class Block(nnx.Module):
    """A residual block modulated by an embedding, with optional self-attention."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        embedding: int,
        *,
        heads: int,
        dropout: float,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self._dropout = dropout
        self.norm1 = GroupNorm(in_channels)
        self.conv1 = _conv(in_channels, channels, dtype, rngs)
        self.modulation = nnx.Linear(embedding, 2 * channels, rngs=rngs)
        self.norm2 = GroupNorm(channels)
        self.conv2 = _conv(channels, channels, dtype, rngs, kernel_init=_ZEROS)
        self.skip = nnx.data(None)
        if in_channels != channels:
            self.skip = nnx.Linear(in_channels, channels, dtype=jnp.dtype(dtype), rngs=rngs)
        self.attention = nnx.data(None)
        if heads:
            self.attention = SelfAttention(channels, heads, dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        embedding: Float[Array, "batch embedding"],
        key: Key[Array, ""] | None = None,
        skip: Float[Array, "batch _ _ _"] | None = None,
    ) -> Float[Array, "batch _ _ channels"]:
        """Applies the block.

        Args:
            x: Activations, which are enlarged to the resolution of `skip`.
            embedding: Embedding of noise level and conditions.
            key: PRNG key of dropout, None for no dropout.
            skip: Activations on the way down, whose channels are appended to those of x.
        """
        parts = [x] if skip is None else [x, skip]
        if backend() != "gpu":
            parts = [_joined(parts)]
        modulation = jnp.split(self.modulation(embedding), 2, axis=-1)
        h = self.conv1(_joined(self.norm1.silu(parts)))
        [h] = self.norm2.silu([h], modulation)
        if self._dropout and key is not None and h.shape[1] <= _DROPOUT_SIDE:
            # Eight random bits for each activation: to draw 32 takes longer than all else here.
            dropped = round(256 * self._dropout)
            four = jax.random.bits(key, (*h.shape[:-1], h.shape[-1] // 4))
            kept = jax.lax.bitcast_convert_type(four, jnp.uint8).reshape(h.shape) >= dropped
            h = jnp.where(kept, h * (256 / (256 - dropped)), 0)
        x = self._add_gpu(h, parts) if backend() == "gpu" else self._add(h, parts)
        return x if self.attention is None else self.attention(x)

    def _add(self, h: Array, parts: Sequence[Array]) -> Array:
        """The mean of the last convolution and the block's input, with the variance of both."""
        [x] = parts
        h = self.conv2(h)
        return (h + (x if self.skip is None else _pointwise(self.skip, x))) * _HALF_POWER

    def _add_gpu(self, h: Array, parts: Sequence[Array]) -> Array:
        """The same with the factor in the layers' parameters, and parts that are never joined."""
        h = _times(_HALF_POWER, self.conv2)(h)
        if self.skip is None:
            return h + _HALF_POWER * parts[0]
        skip = _times(_HALF_POWER, self.skip)
        assert skip.bias is not None  # Flax's default
        # cuDNN adds one array to a convolution's result without another pass.
        shortcut, end = skip.bias[...].astype(h.dtype), 0
        for part in parts:
            start, end = end, end + part.shape[-1]
            y = part.reshape(-1, part.shape[-1]) @ skip.kernel[start:end].astype(h.dtype)
            shortcut = shortcut + _enlarged(y.reshape(*part.shape[:-1], -1), h)
        return h + shortcut


class SelfAttention(nnx.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, heads: int, dtype: str, *, rngs: nnx.Rngs):
        self._heads = heads
        compute = jnp.dtype(dtype)
        self.norm = GroupNorm(channels)
        self.qkv = nnx.Linear(channels, 3 * channels, dtype=compute, rngs=rngs)
        self.out = nnx.Linear(channels, channels, dtype=compute, kernel_init=_ZEROS, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        batch, height, width, _ = x.shape
        # A head's queries, keys and values are adjacent, so that heads can be split over devices.
        qkv = _pointwise(self.qkv, self.norm(x)).reshape(batch, height * width, self._heads, -1)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        # cuDNN never writes the weights of pairs of pixels to memory.
        fused = backend() == "gpu" and q.dtype == jnp.bfloat16
        y = jax.nn.dot_product_attention(q, k, v, implementation="cudnn" if fused else None)
        return (x + _pointwise(self.out, y.reshape(x.shape))) * _HALF_POWER


def _joined(parts: Sequence[Array]) -> Array:
    """One array of the channels of all parts, at the resolution of the last."""
    return jnp.concatenate([_enlarged(part, parts[-1]) for part in parts], axis=-1)


def _enlarged(x: Array, to: Array) -> Array:
    """Each pixel repeated in both directions where `to` has twice the height and width."""
    return x if x.shape[1] == to.shape[1] else x.repeat(2, axis=1).repeat(2, axis=2)


def _times(factor: float, layer: _Layer) -> _Layer:
    """A layer whose output is that of `layer` times a factor."""
    structure, parameters = nnx.split(layer)
    return nnx.merge(structure, jax.tree.map(lambda p: factor * p, parameters))


def _pointwise(
    layer: nnx.Linear, x: Float[Array, "batch height width in_channels"]
) -> Float[Array, "batch height width channels"]:
    """A linear map of each pixel as one matrix product, whose gradient copies less on CPU."""
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _conv(in_channels: int, channels: int, dtype: str, rngs: nnx.Rngs, **initializers) -> nnx.Conv:
    return nnx.Conv(
        in_channels, channels, (3, 3), dtype=jnp.dtype(dtype), rngs=rngs, **initializers
    )
