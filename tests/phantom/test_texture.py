"""Tests of tissue noise and interpolation against their definitions."""

import numpy as np
import pytest
from scipy import ndimage

from femur_jax.phantom.interpolate import bilinear, gaussian
from femur_jax.phantom.texture import draw_texture


def test_texture_has_the_stated_spectrum():
    rng = np.random.default_rng(0)
    for exponent in (1.5, 3.0):
        tiles = [
            draw_texture(rng, extent=64.0, pitch=1.0, exponent=exponent, deviation=1.0).values
            for _ in range(40)
        ]
        power = np.mean(np.abs(np.fft.fft2(tiles)[:, 0]) ** 2, axis=0)
        f = np.arange(2, 20)
        slope = np.polyfit(np.log(f), np.log(power[f]), 1)[0]
        assert slope == pytest.approx(-exponent, abs=0.25)


def test_texture_varies_as_stated_up_to_one_cycle_per_mm():
    """Pixels of 0.5 mm hold exactly that band, except for the corners of the frequency plane."""
    rng = np.random.default_rng(0)
    tiles = [
        draw_texture(rng, extent=50.0, pitch=0.5, exponent=1.5, deviation=0.04).values
        for _ in range(10)
    ]
    assert np.std(tiles) == pytest.approx(0.04, rel=0.1)
    assert np.abs(np.mean(tiles, axis=(1, 2))).max() < 1e-6


def test_finer_pixels_add_only_high_frequencies():
    rng = np.random.default_rng(0)
    fine = draw_texture(rng, extent=64.0, pitch=0.25, exponent=1.5, deviation=1.0).values
    spectrum = np.fft.fft2(fine)
    f = np.abs(np.fft.fftfreq(len(fine), 0.25))
    spectrum[np.hypot(f[:, None], f) > 1.0] = 0
    assert np.fft.ifft2(spectrum).real.std() == pytest.approx(1.0, rel=0.1)


def test_texture_repeats_without_a_seam():
    texture = draw_texture(
        np.random.default_rng(0), extent=20.0, pitch=2.0, exponent=3.0, deviation=1.0
    )
    period = 2.0 * len(texture.values)
    down, right = np.array([0.0, 1.0, 7.3]), np.array([4.0, period - 1.0, 3.0])
    np.testing.assert_allclose(
        texture.at(down, right), texture.at(down - period, right + 2 * period), atol=1e-5
    )
    assert texture.at(down, right)[0] == pytest.approx(texture.values[0, 2])
    middle = 0.25 * (texture.values[0, [0, -1]].sum() + texture.values[1, [0, -1]].sum())
    assert texture.at(down, right)[1] == pytest.approx(middle, abs=1e-5)


def test_bilinear_agrees_with_scipy():
    rng = np.random.default_rng(0)
    grid = rng.standard_normal((7, 5)).astype(np.float32)
    row, column = rng.uniform(-2, 9, 50), rng.uniform(-2, 7, 50)
    expected = ndimage.map_coordinates(grid, [row, column], order=1, mode="nearest")
    np.testing.assert_allclose(bilinear(grid, row, column), expected, atol=1e-5)
    assert bilinear(grid[:1, :1], row, column) == pytest.approx(grid[0, 0])


@pytest.mark.parametrize("sigma", [2.0, 25.0])
def test_smooth_images_agree_with_a_full_gaussian_filter(sigma):
    y, x = np.mgrid[:180, :140].astype(np.float32)
    image = np.tanh((x - 60 + 0.3 * y) / 20)
    expected = ndimage.gaussian_filter(image, sigma, mode="nearest")
    smooth = gaussian(image, sigma)
    np.testing.assert_allclose(smooth.at(y.ravel(), x.ravel()), expected.ravel(), atol=0.03)
    widened = smooth.widened(140)
    np.testing.assert_allclose(widened[0], expected[0], atol=0.03)
