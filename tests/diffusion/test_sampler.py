"""Solver and tiles against analytic cases."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from femur_jax.data.pyramid import double
from femur_jax.data.requests import Request
from femur_jax.diffusion import sampler

SIGMA_DATA = 0.5


def gaussian_denoiser(mean):
    """D of data that are normal around `mean` with SIGMA_DATA: a precision-weighted average."""

    def denoise(x, sigma):
        return (SIGMA_DATA**2 * x + sigma**2 * mean) / (SIGMA_DATA**2 + sigma**2)

    return denoise


def test_karras_sigmas_follow_equation_5():
    sigmas = sampler.karras_sigmas(80.0, 0.002, 5)
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    np.testing.assert_allclose(sigmas, [*expected, 0])


def test_heun_reaches_the_analytic_solution_at_second_order():
    # The probability flow of a Gaussian keeps (x - mean) / sqrt(sigma^2 + sigma_data^2).
    x = np.array([-3.0, 0.5, 2.0])
    mean, start, end = 0.3, 2.0, 0.1
    exact = mean + (x - mean) * np.sqrt((end**2 + SIGMA_DATA**2) / (start**2 + SIGMA_DATA**2))
    errors = []
    for steps in (8, 16, 32):
        sigmas = np.linspace(start, end, steps + 1)
        errors.append(np.abs(sampler.heun(gaussian_denoiser(mean), x, sigmas) - exact).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.25)


def test_heun_draws_the_gaussian():
    x = 80 * np.random.default_rng(0).standard_normal(20000)
    y = sampler.heun(gaussian_denoiser(0.3), x, sampler.karras_sigmas(80.0, 0.002, 40))
    assert np.mean(y) == pytest.approx(0.3, abs=0.02)
    assert np.std(y) == pytest.approx(SIGMA_DATA, rel=0.03)


@pytest.mark.parametrize("length", [3, 16, 17, 30, 31, 32, 33, 61, 200])
def test_blending_weights_add_up_to_one(length):
    patch = 16
    weights = sampler.blending_weights(length, patch)
    total = np.zeros(max(weights) + patch)
    for origin, window in weights.items():
        assert origin % 2 == 0
        total[origin : origin + patch] += window
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert length <= len(total) <= max(length + 1, patch)


CONFIG = ConfigDict(
    {
        "sigma_max": 20.0,
        "sigma_min": 0.01,
        "steps": 12,
        "finer_sigma_max": 1.0,
        "finer_steps": 6,
        "context_sigma": 0.05,
        "tile_batch": 5,
        "group": 3,
    }
)
REQUESTS = [
    Request(40, 25, 0.2, "AFF"),
    Request(16, 16, 0.0, "NFF"),
    Request(21, 64, 0.1, "NFF"),
    Request(9, 13, 0.1, "AFF"),
]


def tile_gaussian(x, sigma, context, context_sigma, place):
    """The exact denoiser of pixels that are normal around a slope down the whole radiograph."""
    patch = x.shape[1]
    row = place.origin[:, 0, None] + np.arange(patch)
    mean = (0.6 * (2 * row / place.level_size[:, 0, None] - 1))[:, :, None, None]
    s = sigma[:, None, None, None]
    variance = 0.05**2
    return jnp.asarray((variance * x + s**2 * mean) / (variance + s**2), jnp.float32)


def test_tiles_join_to_one_radiograph_of_the_requested_size():
    radiographs = list(sampler.sample(tile_gaussian, REQUESTS, CONFIG, patch=16, seed=0))
    assert [r.shape for r in radiographs] == [(r.height, r.width) for r in REQUESTS]
    for pixels in radiographs:
        values = pixels / 32767.5 - 1
        height = pixels.shape[0]
        expected = 0.6 * (2 * np.arange(height) / height - 1)
        assert np.abs(values - expected[:, None]).max() < 0.3  # 6 standard deviations
        assert np.std(values - expected[:, None]) == pytest.approx(0.05, rel=0.25)


def test_result_depends_on_the_seed_only_and_not_on_batches():
    whole = list(sampler.sample(tile_gaussian, REQUESTS, CONFIG, patch=16, seed=0))
    other = ConfigDict(CONFIG.to_dict() | {"tile_batch": 2, "group": 1})
    for a, b in zip(
        whole, sampler.sample(tile_gaussian, REQUESTS, other, patch=16, seed=0), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    changed = next(sampler.sample(tile_gaussian, REQUESTS, CONFIG, patch=16, seed=1))
    assert (changed != whole[0]).any()


def test_ends_at_the_level_that_is_asked_for():
    made = list(sampler.sample(tile_gaussian, REQUESTS, CONFIG, patch=16, seed=0, levels=2))
    assert [pixels.shape for pixels in made] == [(20, 13), (16, 16), (11, 32), (9, 13)]


def test_finer_levels_see_the_coarser_one():
    contexts = []

    def record(x, sigma, context, context_sigma, place):
        contexts.append((int(place.level[0]), np.asarray(context[0, :, :, 0])))
        return tile_gaussian(x, sigma, context, context_sigma, place)

    config = ConfigDict(CONFIG.to_dict() | {"tile_batch": 1, "context_sigma": 1e-9})
    list(sampler.sample(record, [Request(32, 32, 0.2, "AFF")], config, patch=16, seed=0))
    coarsest = [context for level, context in contexts if level == 0]
    finer = [context for level, context in contexts if level == 1]
    assert all((context == 0).all() for context in coarsest)
    # The first tile's context is smooth like its source: the interpolation of the slope.
    slope = double(np.repeat(0.6 * (2 * np.arange(16, dtype=np.float32) / 16 - 1)[:, None], 16, 1))
    assert np.abs(finer[0] - slope[:16, :16]).max() < 0.3
