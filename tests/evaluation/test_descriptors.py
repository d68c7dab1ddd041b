"""Descriptors on drawn pictures, traced edges on drawn legs, and MS-SSIM by its definition."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from femur_jax.errors import UserError
from femur_jax.evaluation import descriptors
from femur_jax.evaluation.descriptors import (
    descriptor_distance,
    mean_similarity,
    ms_ssim,
    trace_shaft,
)
from femur_jax.evaluation.distances import frechet_distance
from femur_jax.evaluation.kernels import kernel_distance


def grey(image):
    return np.round(np.clip(image, 0, 1) * 65535).astype(np.uint16)


def test_spectrum_of_a_wave_peaks_in_its_band():
    columns = np.arange(128)
    for cycles in (8, 40):
        wave = grey(np.tile(0.5 + 0.4 * np.cos(2 * np.pi * cycles * columns / 128), (100, 1)))
        assert descriptors.power_spectrum(wave).argmax() == int(cycles / 128 / 0.5 * 16)


def test_spectrum_of_white_noise_is_flat_and_knows_no_size():
    rng = np.random.default_rng(0)
    for shape in ((300, 200), (96, 400)):
        bands = descriptors.power_spectrum(grey(0.5 + 0.1 * rng.normal(size=shape)))
        # A Hann window keeps 3/8 of the power along each axis.
        assert np.exp(bands[2:]) == pytest.approx(9 / 64, rel=0.3)


def test_spectrum_of_a_small_or_a_constant_image_is_finite():
    assert np.isfinite(descriptors.power_spectrum(np.zeros((9, 40), np.uint16))).all()
    assert np.isfinite(descriptors.power_spectrum(grey(np.eye(6)))).all()


def test_shaft_width_of_a_bar():
    image = np.full((200, 90), 0.2)
    image[:, 30:60] = 0.8
    noisy = grey(gaussian_filter(image, 1) + 0.01 * np.random.default_rng(0).normal(size=(200, 90)))
    np.testing.assert_allclose(descriptors.shaft_widths(noisy), 30 / 90, atol=0.03)


def test_a_shaft_in_a_tiny_image():
    rng = np.random.default_rng(0)
    for shape in ((1, 4), (4, 16), (8, 8), (9, 4), (16, 6), (9, 300)):
        widths = descriptors.shaft_widths(rng.integers(0, 65536, shape, np.uint16))
        assert np.all((widths > 0) & (widths < 1)), shape
    for shape in ((1, 1), (40, 3), (256, 6)):  # the last is halved to 3 columns
        assert np.all(descriptors.shaft_widths(np.zeros(shape, np.uint16)) == 0)


def test_distance_is_in_standard_deviations():
    rng = np.random.default_rng(1)
    real = rng.normal(5, [0.1, 7.0, 0.0], size=(4000, 3))
    moved = real + np.array([0.05, 3.5, 0.5])
    assert descriptor_distance(real, moved) == pytest.approx(0.5, rel=0.02)
    assert descriptor_distance(real[:2000], real[2000:]) < 0.05
    with pytest.raises(UserError, match="too few"):
        descriptor_distance(real[:1], real)


DEGRADED = {
    "blur": lambda x, amount: gaussian_filter(x, (0, amount, amount)),
    "noise": lambda x, amount: x + 0.05 * amount * np.random.default_rng(0).normal(size=x.shape),
}


@pytest.mark.parametrize("kind", DEGRADED)
def test_worse_pictures_are_farther_away(pictures, kind):
    """Against held-out patients, and beyond the floor of other patients."""
    reference, other = pictures["test"], pictures["validation"]
    sets = [other] + [grey(DEGRADED[kind](other / 65535, amount)) for amount in (1.0, 3.0)]

    def features(images):  # band by band, so that dimensions are fewer than samples
        return np.stack([descriptors.power_spectrum(x) for x in images])

    for distance in (
        frechet_distance,
        lambda x, y: kernel_distance(x, y).value,
        descriptor_distance,
    ):
        floor, little, much = (distance(features(reference), features(x)) for x in sets)
        assert floor < little < much


def test_dropped_modes_and_wrong_balance_are_farther_away():
    rng = np.random.default_rng(2)
    classes = {"AFF": rng.normal(size=(600, 6)), "NFF": rng.normal(2, 1, size=(600, 6))}

    def mixed(aff):
        return np.concatenate([classes["AFF"][:aff], classes["NFF"][: 300 - aff]])

    real = np.concatenate([classes["AFF"][300:360], classes["NFF"][300:540]])  # one in five
    for distance in (frechet_distance, lambda x, y: kernel_distance(x, y).value):
        values = [distance(real, mixed(aff)) for aff in (60, 150, 300)]
        assert values[0] < values[1] < values[2]


def drawn_leg(left, right, shape, noise=1500.0):
    """A bright bone between two columns in each row, in a leg with black on both sides."""
    rng = np.random.default_rng(0)
    column = np.arange(shape[1])
    image = np.where(abs(column - shape[1] / 2) < 0.45 * shape[1], 22000.0, 500.0)
    image = np.broadcast_to(image, shape).copy()
    image[(column >= left[:, None]) & (column <= right[:, None])] = 38000.0
    image = gaussian_filter(image, 0.7) + noise * rng.standard_normal(shape)
    return np.clip(image, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("shape", [(120, 61), (500, 260)])
def test_edges_of_a_leaning_bone(shape):
    height, width = shape
    rows = np.arange(height)
    left = 0.3 * width + 0.2 * width * rows / height
    right = left + 0.2 * width * (1 + 0.2 * np.sin(6 * rows / height))
    shaft = trace_shaft(drawn_leg(left, right, shape))
    assert abs(shaft.left - left).max() <= 2
    assert abs(shaft.right - right).max() <= 2
    assert np.median(abs(shaft.left - left)) <= 0.8
    assert shaft.breaks(4) == 0
    assert shaft.contrast.min() > 1


@pytest.mark.parametrize("shape", [(120, 61), (500, 260)])
def test_a_shifted_half_is_one_break(shape):
    height, width = shape
    image = drawn_leg(np.full(height, 0.4 * width), np.full(height, 0.6 * width), shape)
    shaft = trace_shaft(image)
    assert shaft.breaks(4) == 0
    image[height // 2 :] = np.roll(image[height // 2 :], 6, axis=1)
    shaft = trace_shaft(image)
    jumps = np.flatnonzero(abs(np.diff(shaft.left)) >= 2)
    assert np.all(abs(jumps - height // 2) <= 3)
    assert 2 / (height - 3) <= shaft.breaks(4) <= 4 / (height - 3)
    assert shaft.left[-1] - shaft.left[0] == pytest.approx(6, abs=1)


def test_no_bone_has_no_contrast():
    rng = np.random.default_rng(1)
    image = (22000 + 1500 * rng.standard_normal((120, 61))).astype(np.uint16)
    rows = np.full(120, 24.0)
    assert trace_shaft(image).contrast.mean() < 0.6 * (
        trace_shaft(drawn_leg(rows, rows + 14, (120, 61))).contrast.mean()
    )


def ssim_from_definition(x, y):
    """Means of (luminance x structure) and of structure over all whole windows."""
    g = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    g = np.outer(g, g) / g.sum() ** 2
    both, structure = [], []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (g * a).sum(), (g * b).sum()
            va, vb = (g * (a - ma) ** 2).sum(), (g * (b - mb) ** 2).sum()
            cov = (g * (a - ma) * (b - mb)).sum()
            s = (2 * cov + 9e-4) / (va + vb + 9e-4)
            both.append(s * (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4))
            structure.append(s)
    return np.mean(both), np.mean(structure)


def test_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    x = rng.random((30, 25))
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1)
    _, structure = ssim_from_definition(x, y)
    small = [v[:, :24].reshape(15, 2, 12, 2).mean((1, 3)) for v in (x, y)]
    both, _ = ssim_from_definition(*small)  # 25 // 2 >= 11: two scales
    weights = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
    expected = structure ** weights[0] * both ** weights[1]
    assert ms_ssim(x[None], y[None])[0] == pytest.approx(expected, rel=1e-10)


def test_equal_images_and_opposites():
    x = np.random.default_rng(1).random((2, 176, 180))
    np.testing.assert_allclose(ms_ssim(x, x), 1.0)
    assert np.all(ms_ssim(x, 1 - x) == 0.0)


def test_a_collapsed_set_is_less_varied():
    rng = np.random.default_rng(2)
    varied = rng.random((12, 32, 32))
    collapsed = varied[:1] + 0.02 * rng.normal(size=varied.shape)
    assert mean_similarity(collapsed) > 0.9 > 0.3 > mean_similarity(varied)
    assert mean_similarity(varied, seed=1) == mean_similarity(varied, seed=1)


def test_too_small_images_and_sets_are_refused():
    with pytest.raises(UserError, match="window"):
        ms_ssim(np.zeros((1, 10, 40)), np.zeros((1, 10, 40)))
    with pytest.raises(UserError, match="diversity of 1"):
        mean_similarity(np.zeros((1, 20, 20)))
