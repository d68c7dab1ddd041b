"""The equations of EDM, recomputed in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.diffusion import edm

SIGMA_DATA = 0.5


def test_preconditioning_follows_table_1():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4, 4, 1))
    sigma = np.array([0.002, 0.1, 0.5, 3.0, 80.0])
    seen = {}

    def F(x, c_noise):
        seen["x"], seen["c_noise"] = np.asarray(x), np.asarray(c_noise)
        return jnp.sin(3 * x)

    D = edm.denoise(
        F, jnp.asarray(x, jnp.float32), jnp.asarray(sigma, jnp.float32), sigma_data=SIGMA_DATA
    )
    s = sigma.reshape(-1, 1, 1, 1)
    total = np.sqrt(s**2 + SIGMA_DATA**2)
    expected = (SIGMA_DATA / total) ** 2 * x + s * SIGMA_DATA / total * np.sin(3 * x / total)
    np.testing.assert_allclose(D, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(seen["x"], x / total, rtol=1e-5)
    np.testing.assert_allclose(seen["c_noise"], np.log(sigma) / 4, rtol=1e-5)


def test_network_target_has_unit_variance():
    # Appendix B.6: c_in and c_out are chosen so that input and target of F have variance 1.
    rng = np.random.default_rng(0)
    for sigma in (0.05, 0.5, 5.0):
        y = SIGMA_DATA * rng.standard_normal((4000, 1, 1, 1))
        x = y + sigma * rng.standard_normal(y.shape)
        s = jnp.full((len(y),), sigma)
        zero = edm.denoise(lambda x, _: jnp.zeros_like(x), jnp.asarray(x), s, sigma_data=SIGMA_DATA)
        one = edm.denoise(lambda x, _: jnp.ones_like(x), jnp.asarray(x), s, sigma_data=SIGMA_DATA)
        target = (y - np.asarray(zero)) / np.asarray(one - zero)
        assert np.std(target) == pytest.approx(1, rel=0.05)


def test_loss_is_equation_2():
    rng = np.random.default_rng(0)
    y, n = rng.standard_normal((2, 6, 5, 4, 1))
    sigma = np.exp(rng.uniform(-5, 4, 6))
    s = sigma.reshape(-1, 1, 1, 1)
    n *= s
    mask = (rng.uniform(size=y.shape) < 0.7).astype(float)
    total = s**2 + SIGMA_DATA**2
    F = np.sin(3 * (y + n) / np.sqrt(total)) + np.log(s) / 4
    D = SIGMA_DATA**2 / total * (y + n) + s * SIGMA_DATA / np.sqrt(total) * F
    weight = total / (s * SIGMA_DATA) ** 2
    expected = [np.mean((weight * (D - y) ** 2)[i][mask[i] > 0]) for i in range(6)]
    found = edm.loss(
        lambda x, c_noise: jnp.sin(3 * x) + c_noise[:, None, None, None],
        *(jnp.asarray(array, jnp.float32) for array in (y, n, sigma, mask)),
        sigma_data=SIGMA_DATA,
    )
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_noise_levels_are_log_normal():
    P_mean, P_std = (
        jnp.repeat(jnp.asarray(values), 20000) for values in ((-0.8, -2.0), (1.4, 1.2))
    )
    draws = np.log(edm.draw_sigma(jax.random.key(0), P_mean=P_mean, P_std=P_std)).reshape(2, -1)
    np.testing.assert_allclose(draws.mean(axis=1), (-0.8, -2.0), atol=0.04)
    np.testing.assert_allclose(draws.std(axis=1), (1.4, 1.2), rtol=0.02)


def test_loss_of_the_optimal_denoiser_is_one():
    # For Gaussian data the best denoiser leaves sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2),
    # the inverse of lambda(sigma): F = 0.
    keys = jax.random.split(jax.random.key(0), 3)
    y = SIGMA_DATA * jax.random.normal(keys[0], (20000, 2, 2, 1))
    P_mean, P_std = jnp.full(len(y), -0.8), jnp.full(len(y), 1.2)
    sigma = edm.draw_sigma(keys[1], P_mean=P_mean, P_std=P_std)
    n = sigma[:, None, None, None] * jax.random.normal(keys[2], y.shape)
    losses = edm.loss(
        lambda x, _: jnp.zeros_like(x), y, n, sigma, jnp.ones_like(y), sigma_data=SIGMA_DATA
    )
    assert float(losses.mean()) == pytest.approx(1, rel=0.03)


def test_the_best_uncertainty_is_the_logarithm_of_the_mean_loss():
    losses = jnp.array([0.3, 1.2, 7.0, 0.02])
    u = jnp.log(losses.mean())

    def objective(u):
        return edm.uncertainty_loss(losses, jnp.full(4, u)).mean()

    assert float(objective(u)) == pytest.approx(1 + float(u))
    assert float(jax.grad(objective)(u)) == pytest.approx(0, abs=1e-6)
    assert all(objective(u + step) > objective(u) for step in (-0.3, -0.01, 0.01, 0.3))
