"""Solvers of the probability flow dx/dsigma = (x - D(x; sigma)) / sigma, and their noise levels."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Number: TypeAlias = Float[Array, ""] | float

Denoise: TypeAlias = Callable[[Float[Array, "n"], float], Float[Array, "n"]]
"""D(x; sigma) for all pixels that are solved together. Solvers overwrite x afterwards."""


def karras_sigmas(
    sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0
) -> Float[np.ndarray, "steps_and_zero"]:
    """Noise levels of a solver, ending in 0 (Karras et al. 2022, arXiv 2206.00364, equation 5)."""
    ramp = np.linspace(0, 1, steps)
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.append((ends[0] + ramp * (ends[1] - ends[0])) ** rho, 0.0)


def heun(
    denoise: Denoise, x: Float[Array, "n"], sigmas: Float[np.ndarray, "steps_and_zero"]
) -> Float[Array, "n"]:
    """Heun's method: second order, two evaluations a step.

    Karras et al. 2022, algorithm 1; Euler for the last step, to sigma = 0.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x, halfway = _euler(x, denoise(x, sigma), sigma, sigma_next)
        if sigma_next > 0:
            x = _trapezoid(x, denoise(x, sigma_next), halfway, sigma, sigma_next)
    return x


@partial(jax.jit, donate_argnums=0)
def _euler(
    x: Float[Array, "n"],
    D: Float[Array, "n"],
    sigma: Number,
    sigma_next: Number,
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Follows the slope at sigma to the next noise level, and half of the way."""
    slope = (x - D) / sigma
    return x + (sigma_next - sigma) * slope, x + (sigma_next - sigma) / 2 * slope


@partial(jax.jit, donate_argnums=0)
def _trapezoid(
    x_next: Float[Array, "n"],
    D_next: Float[Array, "n"],
    halfway: Float[Array, "n"],
    sigma: Number,
    sigma_next: Number,
) -> Float[Array, "n"]:
    """Follows the slope at the next noise level for the other half of the way."""
    slope_next = (x_next - D_next) / sigma_next
    return halfway + (sigma_next - sigma) / 2 * slope_next


def dpm_solver_2m(
    denoise: Denoise, x: Float[Array, "n"], sigmas: Float[np.ndarray, "steps_and_zero"]
) -> Float[Array, "n"]:
    """DPM-Solver++(2M): second order, one evaluation a step.

    Lu et al. 2022, arXiv 2211.01095, algorithm 2, with alpha = 1 and lambda = -ln sigma. The first
    step is of first order; so is the last, to sigma = 0, where it returns D.
    """
    previous, h_previous = None, math.inf
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        D = denoise(x, sigma)
        if sigma_next == 0:
            return D
        h = math.log(sigma / sigma_next)
        r = h_previous / h
        x = _extrapolate(x, D, D if previous is None else previous, h, r)
        previous, h_previous = D, h
    return x


@partial(jax.jit, donate_argnums=0)
def _extrapolate(
    x: Float[Array, "n"],
    D: Float[Array, "n"],
    previous: Float[Array, "n"],
    h: Number,
    r: Number,
) -> Float[Array, "n"]:
    """One step of DPM-Solver++(2M) from sigma to sigma exp(-h)."""
    extrapolated = D + (D - previous) / (2 * r)
    return jnp.exp(-h) * x - jnp.expm1(-h) * extrapolated


class Solver(NamedTuple):
    """A solver of the probability-flow equation, and its cost."""

    solve: Callable[
        [Denoise, Float[Array, "n"], Float[np.ndarray, "steps_and_zero"]],
        Float[Array, "n"],
    ]
    """Function of D, of x at sigmas[0], which is lost, and of falling noise levels that end with
    0."""
    evaluations: Callable[[int], int]
    """Evaluations of D as a function of the number of steps."""


SOLVERS = {
    "heun": Solver(heun, lambda steps: 2 * steps - 1),
    "dpm_solver_2m": Solver(dpm_solver_2m, lambda steps: steps),
}
