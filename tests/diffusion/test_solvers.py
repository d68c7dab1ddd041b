"""Solvers against exact solutions of the probability flow, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import norm

from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas

MEANS, DEVIATIONS, WEIGHTS = np.array([-1.0, 0.4]), np.array([0.3, 0.5]), np.array([0.3, 0.7])


@pytest.fixture(autouse=True)
def double_precision(request):
    with jax.enable_x64("single" not in request.node.name):
        yield


def components(x, sigma):
    """Posterior weight of each component at x, and the mean of the clean value under each."""
    variance = DEVIATIONS**2 + sigma**2
    log_weight = np.log(WEIGHTS) + norm.logpdf(x[:, None], MEANS, np.sqrt(variance))
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    mean = (DEVIATIONS**2 * x[:, None] + sigma**2 * MEANS) / variance
    return weight / weight.sum(1, keepdims=True), mean


def mixture(x, sigma):
    """The exact denoiser of a mixture of two normal distributions."""
    weight, mean = components(np.asarray(x), sigma)
    return jnp.asarray((weight * mean).sum(1))


def cumulative(x, sigma):
    return (WEIGHTS * norm.cdf(x[:, None], MEANS, np.sqrt(DEVIATIONS**2 + sigma**2))).sum(1)


def quantile(p, sigma):
    """Inverts `cumulative` by bisection."""
    low, high = np.full(p.shape, -500.0), np.full(p.shape, 500.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = cumulative(middle, sigma) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def gaussian(x, sigma):
    """The exact denoiser of a normal distribution with mean 0.3 and deviation 0.5."""
    return (0.25 * x + sigma**2 * 0.3) / (0.25 + sigma**2)


def gaussian_flow(x, start, end):
    return 0.3 + (x - 0.3) * np.sqrt((end**2 + 0.25) / (start**2 + 0.25))


def mixture_flow(x, start, end):
    # In one dimension the flow keeps the order of points, so it keeps their cumulative probability.
    return quantile(cumulative(x, start), end)


def test_karras_sigmas_follow_equation_5():
    sigmas = karras_sigmas(80.0, 0.002, 5)
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    np.testing.assert_allclose(sigmas, [*expected, 0])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("denoise", "flow"), [(gaussian, gaussian_flow), (mixture, mixture_flow)])
def test_error_falls_with_the_square_of_the_step(name, denoise, flow):
    # To a small sigma and not to 0: the last step, to 0, is of first order by design.
    start, end = 10.0, 0.1
    x = 10.0 * ndtri(np.linspace(0.02, 0.98, 25))
    exact = flow(x, start, end)
    steps = np.array([40, 80, 160, 320])
    errors = []
    for n in steps:
        stopped = []

        def watch(x, sigma, stopped=stopped):
            if sigma == end:
                stopped.append(np.array(x))  # these solvers pass x at sigma before the last step
            return denoise(x, sigma)

        SOLVERS[name].solve(watch, jnp.asarray(x), np.append(np.geomspace(start, end, n + 1), 0.0))
        errors.append(np.abs(stopped[-1] - exact).max())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2, abs=0.15)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("name", SOLVERS)
def test_draws_the_mixture(name):
    # All quantiles of the data, from as many of the noise.
    p = (np.arange(400) + 0.5) / 400
    y = SOLVERS[name].solve(mixture, jnp.asarray(quantile(p, 80.0)), karras_sigmas(80.0, 0.002, 40))
    np.testing.assert_allclose(y, quantile(p, 0.0), atol=0.02)


@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_are_counted(name):
    calls = []

    def count(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    SOLVERS[name].solve(count, jnp.ones(3), karras_sigmas(80.0, 0.002, 7))
    assert len(calls) == SOLVERS[name].evaluations(7)


@pytest.mark.parametrize("name", SOLVERS)
def test_single_precision_stays_single(name):
    x = jnp.ones(3, jnp.float32)
    assert SOLVERS[name].solve(gaussian, x, karras_sigmas(80.0, 0.002, 3)).dtype == jnp.float32
