"""Solvers of the probability flow dx/dsigma = (x - D(x; sigma)) / sigma, and their noise levels."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

Denoise: TypeAlias = Callable[[Float[np.ndarray, "n"], float], Float[np.ndarray, "n"]]
"""D(x; sigma) for all pixels that are solved together."""


def karras_sigmas(
    sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0
) -> Float[np.ndarray, "steps_and_zero"]:
    """Noise levels of a solver, ending in 0 (Karras et al. 2022, arXiv 2206.00364, equation 5)."""
    ramp = np.linspace(0, 1, steps)
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.append((ends[0] + ramp * (ends[1] - ends[0])) ** rho, 0.0)


def heun(
    denoise: Denoise, x: Float[np.ndarray, "n"], sigmas: Float[np.ndarray, "steps_and_zero"]
) -> Float[np.ndarray, "n"]:
    """Heun's method: second order, two evaluations a step.

    Karras et al. 2022, algorithm 1; Euler for the last step, to sigma = 0.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        slope = (x - denoise(x, sigma)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return x


def dpm_solver_2m(
    denoise: Denoise, x: Float[np.ndarray, "n"], sigmas: Float[np.ndarray, "steps_and_zero"]
) -> Float[np.ndarray, "n"]:
    """DPM-Solver++(2M): second order, one evaluation a step.

    Lu et al. 2022, arXiv 2211.01095, algorithm 2, with alpha = 1 and lambda = -ln sigma. The first
    step is of first order; so is the last, to sigma = 0, where it returns D.
    """
    previous, h_previous = None, 0.0
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        D = denoise(x, sigma)
        if sigma_next == 0:
            return D
        h = math.log(sigma / sigma_next)
        extrapolated = D
        if previous is not None:
            r = h_previous / h
            extrapolated = D + (D - previous) / (2 * r)
        x = sigma_next / sigma * x - math.expm1(-h) * extrapolated
        previous, h_previous = D, h
    return x


class Solver(NamedTuple):
    """A solver of the probability-flow equation, and its cost."""

    solve: Callable[
        [Denoise, Float[np.ndarray, "n"], Float[np.ndarray, "steps_and_zero"]],
        Float[np.ndarray, "n"],
    ]
    """Function of D, of x at sigmas[0] and of falling noise levels that end with 0."""
    evaluations: Callable[[int], int]
    """Evaluations of D as a function of the number of steps."""


SOLVERS = {
    "heun": Solver(heun, lambda steps: 2 * steps - 1),
    "dpm_solver_2m": Solver(dpm_solver_2m, lambda steps: steps),
}
