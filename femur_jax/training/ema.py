"""Moving averages of parameters whose width is relative to the length of the training.

EDM2 (Karras et al. 2023, arXiv 2312.02696, section 3): after t steps the average weighs the
parameters of step tau by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), so it forgets the first
ones. It is named by its width sigma_rel, the standard deviation of p relative to t. Averages of
other widths and other steps can be reconstructed afterwards from stored ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int, PyTree

from femur_jax.errors import UserError
from femur_jax.training.checkpoint import Snapshots

GREATEST_WIDTH = 12**-0.5
"""The width of the plain mean over all steps, gamma = 0."""


def init(params: PyTree, widths: Sequence[float]) -> dict[str, PyTree]:
    """Returns the averages before the first step, by width.

    Raises:
        UserError: A width is out of range.
    """
    for width in widths:
        gamma_of(width)
    return {str(width): params for width in widths}


def update(ema: dict[str, PyTree], params: PyTree, step: Int[Array, ""]) -> dict[str, PyTree]:
    """Returns the averages after a step: each becomes beta ema + (1 - beta) params.

    Args:
        ema: The averages before the step, by width.
        params: The parameters after the step.
        step: The number of previous steps. With t = step + 1, beta = (1 - 1 / t)^(gamma + 1).
    """

    def updated(width: str) -> PyTree:
        # 1 - beta, which at a late step is too small for a subtraction in float32.
        share = -jnp.expm1((gamma_of(float(width)) + 1) * jnp.log1p(-1 / (step + 1.0)))
        return jax.tree.map(lambda e, p: e + share * (p - e), ema[width], params)

    return {width: updated(width) for width in ema}


def gamma_of(width: float) -> float:
    """Returns the exponent for a width, from sigma_rel^2 = (g + 1) / ((g + 2)^2 (g + 3)).

    Raises:
        UserError: The width is out of range.
    """
    if not 0 < width <= GREATEST_WIDTH:
        raise UserError(
            f"An EMA width of {width} is not between 0 and {GREATEST_WIDTH:.3f}, the width of a "
            "mean over all steps; 0.05 and 0.1 are usual."
        )
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class Profile(NamedTuple):
    """Names an average: over the steps 1 to `step`, with a width."""

    step: int
    width: float


def coefficients(stored: Sequence[Profile], target: Profile) -> Float64[np.ndarray, "stored"]:
    """Returns the weights with which stored averages add up to one that was not stored.

    The p of this weighted sum is the nearest to the target's in the least-squares sense (EDM2,
    section 3). Closer steps and more widths make it more precise.
    """
    products = np.array([[_inner_product(a, b) for b in stored] for a in stored])
    wanted = np.array([_inner_product(a, target) for a in stored])
    return np.linalg.lstsq(products, wanted)[0]


def _inner_product(a: Profile, b: Profile) -> float:
    """The integral of p_a(tau) p_b(tau), from 0 to the earlier of the two last steps."""
    gamma_a, gamma_b = gamma_of(a.width), gamma_of(b.width)
    total = gamma_a + gamma_b + 1
    logarithm = (
        total * np.log(min(a.step, b.step))
        - (gamma_a + 1) * np.log(a.step)
        - (gamma_b + 1) * np.log(b.step)
    )
    return float((gamma_a + 1) * (gamma_b + 1) / total * np.exp(logarithm))


def reconstruct(folder: Path, ema: dict[str, PyTree], target: Profile) -> PyTree:
    """Reconstructs an average that was not stored from a run's snapshots.

    Args:
        folder: The folder of the snapshots, see `checkpoint.Snapshots`.
        ema: Averages as the run stores them, for their widths, shapes and shardings.
        target: The step and the width of the average.

    Raises:
        UserError: There are no snapshots.
    """
    snapshots = Snapshots(folder)
    if not snapshots.steps:
        raise UserError(
            f"{folder} has no snapshot, so an average of width {target.width} cannot be "
            f"reconstructed; use a width of {' or '.join(ema)}, or train with "
            "config.train.snapshot_every."
        )
    stored = [Profile(step, float(width)) for step in snapshots.steps for width in ema]
    weights = iter(coefficients(stored, target))
    result = jax.tree.map(jnp.zeros_like, next(iter(ema.values())))
    for step in snapshots.steps:
        snapshot = snapshots.restore(step, ema)
        for width in ema:
            weight = next(weights)
            result = jax.tree.map(lambda r, e, w=weight: r + w * e, result, snapshot[width])
    snapshots.close()
    return result
