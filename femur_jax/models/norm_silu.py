"""Group normalisation, modulation and SiLU with few passes over memory, for GPUs.

Left to the compiler, the normalised values and the gradient of the SiLU are written to memory
between passes, which takes a GPU more time than the arithmetic. Here the forward pass reads the
input twice and writes the output; the backward pass reads input and gradient twice and writes the
gradient of the input.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def norm_silu(
    x: Float[Array, "batch height width channels"],
    scale: Float[Array, "batch channels"],
    bias: Float[Array, "batch channels"],
    group: int,
    epsilon: float,
) -> Float[Array, "batch height width channels"]:
    """Returns SiLU(scale n + bias) in the type of x, where n is x after group normalisation.

    Args:
        x: The activations; sums over them are computed in float32.
        scale: A factor for each channel.
        bias: An addition for each channel.
        group: Number of adjacent channels that are normalised together.
        epsilon: Addition to the variance.
    """
    return _forward(x, scale, bias, group, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, group: int, epsilon: float):
    y = x.astype(jnp.float32)
    mean = _group_mean(y.mean((1, 2)), group)
    # Rounding can make the difference negative.
    variance = jnp.maximum(_group_mean(jnp.square(y).mean((1, 2)), group) - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    z = _pixels(scale * inverse) * y + _pixels(bias - scale * inverse * mean)
    return jax.nn.silu(z).astype(x.dtype), (x, scale, bias, mean, inverse)


def _backward(group: int, epsilon: float, residuals: tuple[Array, ...], gradient: Array):
    x, scale, bias, mean, inverse = residuals
    gain = scale * inverse
    offset = bias - gain * mean

    y = x.astype(jnp.float32)
    z = _pixels(gain) * y + _pixels(offset)

    def through_silu(sigmoid: Array) -> Array:
        """The gradient of z."""
        return gradient.astype(jnp.float32) * sigmoid * (1 + z * (1 - sigmoid))

    dz = through_silu(jax.nn.sigmoid(z))
    # One reduction of both: the compiler would pass once more over the sum of dz over the batch.
    zeros = (jnp.float32(0), jnp.float32(0))
    dbias, by_input = jax.lax.reduce((dz, dz * y), zeros, _sums, (1, 2))
    dscale = inverse * (by_input - mean * dbias)
    # The second pass computes dz again, since to write and read it would take longer. With the same
    # formula of the sigmoid, the compiler would keep it.
    dz = through_silu(0.5 + 0.5 * jnp.tanh(0.5 * z))
    pixels = x.shape[1] * x.shape[2]
    from_mean = _group_mean(scale * dbias, group) / pixels
    slope = jnp.square(inverse) * _group_mean(scale * dscale, group) / pixels
    dx = _pixels(gain) * dz - _pixels(slope) * y - _pixels(inverse * from_mean - slope * mean)
    return dx.astype(x.dtype), dscale, dbias


norm_silu.defvjp(_forward, _backward)


def _sums(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    return a[0] + b[0], a[1] + b[1]


def _group_mean(values: Array, group: int) -> Array:
    """The mean over each group of adjacent channels, for each channel."""
    return values.reshape(len(values), -1, group).mean(-1).repeat(group, axis=-1)


def _pixels(values: Array) -> Array:
    """Values of each channel, for all pixels."""
    return values[:, None, None]
