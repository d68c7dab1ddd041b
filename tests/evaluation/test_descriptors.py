"""Descriptors on pictures whose answer is known, and degraded phantoms in their right order."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from femur_jax.errors import UserError
from femur_jax.evaluation import descriptors
from femur_jax.evaluation.descriptors import descriptor_distance
from femur_jax.evaluation.distances import frechet_distance, kernel_distance


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
