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


def draw_sigma(
    key: Key[Array, ""], *, P_mean: Float[Array, "batch"], P_std: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """Noise levels of training, ln sigma ~ N(P_mean, P_std^2) (table 1)."""
    return jnp.exp(P_mean + P_std * jax.random.normal(key, P_mean.shape))


def loss(
    F: Network,
    y: Float[Array, "batch height width 1"],
    n: Float[Array, "batch height width 1"],
    sigma: Float[Array, "batch"],
    mask: Float[Array, "batch height width 1"],
    *,
    sigma_data: float,
) -> Float[Array, "batch"]:
    """Weighted denoising error lambda(sigma) |D(y + n; sigma) - y|^2 (equation 2, table 1).

    Args:
        F: The network before preconditioning.
        y: Clean patches in -1..1.
        n: Noise of standard deviation `sigma`.
        sigma: Noise level of each patch.
        mask: 1 where a pixel counts; the mean is over these.
        sigma_data: Standard deviation of the data.
    """
    D = denoise(F, y + n, sigma, sigma_data=sigma_data)
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2  # lambda(sigma)
    error = (mask * (D - y) ** 2).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    return weight * error


def uncertainty_loss(
    losses: Float[Array, "batch"], u: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """The loss weighted by a learned uncertainty, loss / exp(u(sigma)) + u(sigma).

    EDM2 (Karras et al. 2023, arXiv 2312.02696, equation 21): at its optimum u is the logarithm of
    the mean loss at a noise level (and, here, under its conditions), so all noise levels weigh
    alike during the whole training.

    Args:
        losses: The value of `loss` for each patch.
        u: The network's answer for each patch's noise level and conditions.
    """
    return losses / jnp.exp(u) + u
