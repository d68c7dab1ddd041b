"""Tests of the detector against the statistics of counts."""

import numpy as np
import pytest

from femur_jax.phantom.detector import detect

PLAIN = np.zeros((4, 4), np.float32)


def detected(signal, *, photons, blur=0.0, texture=PLAIN, trabecular=0.0, seed=0):
    signal = np.asarray(signal, np.float32)

    def rows(top, bottom):
        block = signal[top:bottom]
        return np.stack([block, np.full_like(block, trabecular)])

    return detect(
        np.random.default_rng(seed), rows, signal.shape, texture, photons=photons, blur=blur
    )


@pytest.mark.parametrize("share", [0.1, 0.0002])  # 5000 photons; 10 photons, a skewed distribution
def test_counts_have_the_mean_and_deviation_of_a_poisson_variable(share):
    photons = 50_000.0
    signal = detected(np.full((256, 200), -np.log(share)), photons=photons)
    counts = photons * np.exp(-signal)
    mean = share * photons
    n = counts.size
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / n))
    assert counts.var() == pytest.approx(mean, rel=5 * np.sqrt((2 + 1 / mean) / n))
    skewness = np.mean((counts - mean) ** 3) / mean**1.5
    assert skewness == pytest.approx(1 / np.sqrt(mean) if mean < 50 else 0.0, abs=0.06)
    # The noise of neighbouring pixels is independent.
    noise = (counts - mean) / np.sqrt(mean)
    assert abs(np.mean(noise[1:] * noise[:-1])) < 5 / np.sqrt(n)
    assert abs(np.mean(noise[:, 1:] * noise[:, :-1])) < 5 / np.sqrt(n)


def test_the_signal_of_no_photons_is_finite():
    signal = detected(np.full((64, 64), 30.0), photons=1e4)
    np.testing.assert_allclose(signal, np.log(1e4 / 0.5), rtol=1e-5)


@pytest.mark.parametrize("blur", [0.3, 0.7])
def test_blur_has_the_stated_width_in_both_directions(blur):
    image = np.zeros((31, 33))
    image[15, 16] = 1.0
    spread = np.exp(-detected(-np.log1p(image), photons=1e12, blur=blur)) - 1.0
    assert spread.sum() == pytest.approx(1.0, abs=2e-3)
    assert (spread.sum(1) * (np.arange(31) - 15) ** 2).sum() == pytest.approx(blur**2, rel=0.02)
    assert (spread.sum(0) * (np.arange(33) - 16) ** 2).sum() == pytest.approx(blur**2, rel=0.02)


def test_blocks_of_rows_leave_no_trace():
    """Every row of an image of many blocks has its expected signal."""
    y, x = np.mgrid[:700, :300]
    signal = 1.0 + 0.3 * np.sin(x / 9) + 0.2 * np.cos(y / 11)
    noiseless = detected(signal, photons=1e10, blur=0.5)
    np.testing.assert_allclose(noiseless[1:-1, 1:-1], signal[1:-1, 1:-1], atol=2e-3)


def test_texture_scales_with_the_bone():
    texture = np.array([[0.1, -0.1], [-0.1, 0.1]], np.float32)
    signal = detected(np.full((10, 10), 2.0), photons=1e12, texture=texture, trabecular=0.5)
    np.testing.assert_allclose(signal - 2.0, np.tile(0.5 * texture, (5, 5)), atol=1e-4)


def test_equal_seeds_give_equal_noise():
    flat = np.full((40, 40), 2.0)
    first, again, other = (detected(flat, photons=1e4, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
