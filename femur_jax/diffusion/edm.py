"""Preconditioning and loss of EDM (Karras et al. 2022, arXiv 2206.00364), in its symbols."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Network = Callable[
    [Float[Array, "batch height width 1"], Float[Array, "batch"]],
    Float[Array, "batch height width 1"],
]
"""F_theta(c_in x, c_noise); conditions are bound to it."""


def denoise(
    F: Network,
    x: Float[Array, "batch height width 1"],
    sigma: Float[Array, "batch"],
    *,
    sigma_data: float,
) -> Float[Array, "batch height width 1"]:
    """The denoiser D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (equation 7, table 1)."""
    s = sigma[:, None, None, None]
    c_skip = sigma_data**2 / (s**2 + sigma_data**2)
    c_out = s * sigma_data / jnp.sqrt(s**2 + sigma_data**2)
    c_in = 1 / jnp.sqrt(s**2 + sigma_data**2)
    c_noise = jnp.log(sigma) / 4
    return c_skip * x + c_out * F(c_in * x, c_noise)


def loss(
    F: Network,
    y: Float[Array, "batch height width 1"],
    mask: Float[Array, "batch height width 1"],
    key: Key[Array, ""],
    *,
    P_mean: float,
    P_std: float,
    sigma_data: float,
) -> Float[Array, "batch"]:
    """Weighted denoising error lambda(sigma) |D(y + n; sigma) - y|^2 (equation 2, table 1).

    Args:
        F: The network.
        y: Clean patches.
        mask: 1 where a pixel counts; the mean is over these.
        key: For the noise levels, ln sigma ~ N(P_mean, P_std^2), and the noise.
        P_mean: See `key`.
        P_std: See `key`.
        sigma_data: Standard deviation of the data.
    """
    key_sigma, key_n = jax.random.split(key)
    sigma = jnp.exp(P_mean + P_std * jax.random.normal(key_sigma, y.shape[:1]))
    n = sigma[:, None, None, None] * jax.random.normal(key_n, y.shape)
    D = denoise(F, y + n, sigma, sigma_data=sigma_data)
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2  # lambda(sigma)
    error = (mask * (D - y) ** 2).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    return weight * error
