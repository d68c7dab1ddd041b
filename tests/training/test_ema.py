"""Power-function averages against weighted sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.training import ema
from femur_jax.training.checkpoint import Snapshots
from femur_jax.training.ema import Profile

STEPS = 256
EVERY = 32
WIDTHS = (0.05, 0.1)


@pytest.fixture(scope="module")
def history():
    """The parameters of a random walk, (step, parameter)."""
    return np.cumsum(np.random.default_rng(0).standard_normal((STEPS, 5)), axis=0)


@pytest.fixture(scope="module")
def averages(history):
    """The averages after each step."""

    def step(averages, inputs):
        number, params = inputs
        averages = ema.update(averages, {"w": params}, number)
        return averages, averages

    start = ema.init({"w": jnp.full(5, 99.0)}, WIDTHS)  # which the averages must forget
    inputs = (jnp.arange(STEPS), jnp.asarray(history, jnp.float32))
    return jax.device_get(jax.lax.scan(step, start, inputs)[1])


def weights(gamma, steps):
    """The weight of each step's parameters in the average after `steps`, from the recursion."""
    beta = (1 - 1 / np.arange(1.0, steps + 1)) ** (gamma + 1)
    later = np.append(np.cumprod(beta[::-1])[::-1][1:], 1.0)
    return (1 - beta) * later


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.1, 6.94), (12**-0.5, 0.0)])
def test_gamma_is_that_of_the_paper(width, gamma):
    result = ema.gamma_of(width)
    assert result == pytest.approx(gamma, abs=0.005)
    # The standard deviation of p(tau) on [0, 1], by summation.
    tau = (np.arange(100_000) + 0.5) / 100_000
    p = tau**result / np.sum(tau**result)
    assert np.sqrt(p @ tau**2 - (p @ tau) ** 2) == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_average_is_the_weighted_sum_of_all_steps(history, averages, width):
    gamma = ema.gamma_of(width)
    for step in (1, 2, 10, STEPS):
        result = averages[str(width)]["w"][step - 1]
        expected = weights(gamma, step) @ history[:step]
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    # These weights have the paper's shape: (gamma + 1) tau^gamma / t^(gamma + 1).
    tau = np.arange(STEPS - 20, STEPS) + 0.5
    shape = (gamma + 1) * tau**gamma / STEPS ** (gamma + 1)
    np.testing.assert_allclose(weights(gamma, STEPS)[-20:], shape, rtol=0.05)


def test_late_steps_still_count():
    # A million steps: 1 - beta is 8e-6, below what float32 resolves near 1.
    before, after = {"0.1": {"w": jnp.zeros(1)}}, {"w": jnp.ones(1)}
    result = ema.update(before, after, jnp.asarray(999_999))["0.1"]["w"]
    expected = 1 - (1 - 1e-6) ** (ema.gamma_of(0.1) + 1)
    assert float(result[0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("target", "tolerance"),
    [(Profile(256, 0.15), 0.02), (Profile(256, 0.07), 0.02), (Profile(240, 0.1), 0.05)],
)
def test_another_average_is_reconstructed_from_snapshots(
    tmp_path, history, averages, target, tolerance
):
    snapshots = Snapshots(tmp_path / "snapshots")
    for step in range(EVERY, STEPS + 1, EVERY):
        snapshots.save(jax.tree.map(lambda array, n=step: array[n - 1], averages), step)
    snapshots.close()
    like = ema.init({"w": jnp.zeros(5)}, WIDTHS)
    result = ema.reconstruct(tmp_path / "snapshots", like, target)
    expected = weights(ema.gamma_of(target.width), target.step) @ history[: target.step]
    nearest = averages["0.1"]["w"][target.step // EVERY * EVERY - 1]
    error = np.abs(result["w"] - expected).max()
    assert error < tolerance * np.std(history)
    assert error < 0.3 * np.abs(nearest - expected).max()  # much better than what is stored


def test_a_stored_average_is_taken_as_it_is():
    stored = [Profile(step, width) for step in (100, 200, 300) for width in WIDTHS]
    result = ema.coefficients(stored, stored[3])
    np.testing.assert_allclose(result, np.eye(6)[3], atol=1e-6)


def test_errors_are_reported(tmp_path):
    for width in (0.0, -1.0, 0.3):
        with pytest.raises(UserError, match=f"EMA width of {width}"):
            ema.init({}, [width])
    with pytest.raises(UserError, match=r"no snapshot.*0\.05 or 0\.1"):
        ema.reconstruct(tmp_path, ema.init({}, WIDTHS), Profile(5, 0.2))
