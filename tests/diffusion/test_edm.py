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


def test_loss_of_the_optimal_denoiser_is_one():
    # For Gaussian data the best denoiser leaves sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2),
    # the inverse of lambda(sigma): F = 0.
    y = SIGMA_DATA * jax.random.normal(jax.random.key(0), (20000, 2, 2, 1))
    losses = edm.loss(
        lambda x, _: jnp.zeros_like(x),
        y,
        jnp.ones_like(y),
        jax.random.key(1),
        P_mean=-0.8,
        P_std=1.2,
        sigma_data=SIGMA_DATA,
    )
    assert float(losses.mean()) == pytest.approx(1, rel=0.03)


def test_masked_pixels_do_not_count():
    key = jax.random.key(0)
    y = jax.random.normal(key, (3, 4, 4, 1))
    mask = jnp.ones_like(y).at[:, 2:].set(0)
    kwargs = {"P_mean": 0.0, "P_std": 1.0, "sigma_data": SIGMA_DATA}

    def pointwise(x, _):
        return jnp.tanh(x)

    before = edm.loss(pointwise, y, mask, key, **kwargs)
    after = edm.loss(pointwise, y.at[:, 2:].add(9.0), mask, key, **kwargs)
    np.testing.assert_allclose(before, after, rtol=1e-6)
    assert not np.allclose(before, edm.loss(pointwise, y.at[:, :2].add(9.0), mask, key, **kwargs))
