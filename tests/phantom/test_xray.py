"""Projection and detector against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.phantom.anatomy import axis_at, draw_femur, elliptic_tube, sphere
from femur_jax.phantom.fracture import draw_fracture
from femur_jax.phantom.volume import coverage, owning_fragment, periosteum
from femur_jax.phantom.xray import (
    ATTENUATION,
    add_texture,
    aim,
    broad_blur,
    detect,
    path_lengths,
    power_law_noise,
    project,
    transmission,
)


def oblique_rays(offsets):
    """Unit directions from a source at z = -1000 through points of the plane z = 0."""
    rays = np.stack([offsets, 0.3 * offsets, np.full_like(offsets, 1000.0)])
    return (rays / np.linalg.norm(rays, axis=0)).astype(np.float32)


SOURCE = np.array([0.0, 0.0, -1000.0], np.float32)


def test_path_through_a_sphere_is_the_chord():
    radius = 30.0
    rays = oblique_rays(np.linspace(-27, 27, 41))

    def ball(p, width):
        return (coverage(sphere(p, (0.0, 0.0, 0.0), radius), width),)

    (length,) = path_lengths(ball, SOURCE, rays, 940.0, 1060.0)
    closest = np.linalg.norm(np.cross(-SOURCE.astype(float), rays.T.astype(float)), axis=1)
    np.testing.assert_allclose(length, 2 * np.sqrt(radius**2 - closest**2), atol=0.25)


def test_path_through_a_hollow_cylinder_is_the_difference_of_chords():
    """A canal in a cortex thinner than the distance of samples is not lost."""
    outer, inner = 14.0, 12.8
    offsets = np.linspace(-10, 10, 21)
    rays = np.stack([offsets, np.full_like(offsets, 1000.0), 0 * offsets])
    rays = (rays / np.linalg.norm(rays, axis=0)).astype(np.float32)

    def cortex(p, width):
        wall = [coverage(elliptic_tube(p[0], p[1], r, r), width) for r in (outer, inner)]
        return (wall[0] - wall[1],)

    (length,) = path_lengths(cortex, np.array([0, -1000.0, 0], np.float32), rays, 935.0, 1065.0)
    closest = 1000.0 * np.abs(rays[0].astype(float))
    chord = 2 * np.sqrt(outer**2 - closest**2) - 2 * np.sqrt(inner**2 - closest**2)
    np.testing.assert_allclose(length, chord, atol=0.3)


def test_beer_lambert():
    """10 mm of bone at 50 keV, NIST: exp(-1.92 x 0.4242 x 1 cm)."""
    lengths = np.array([[10.0, 0.0, 0.0], [0.0, 0.0, 100.0], [10.0, 20.0, 100.0]])
    expected = np.exp([-0.814464, -2.39984, -0.814464 - 2 * 0.201685 - 2.39984])
    np.testing.assert_allclose(transmission(lengths), expected, rtol=1e-6)
    assert ATTENUATION.shape == (3,)


def test_broad_blur_has_the_stated_width_and_keeps_the_sum():
    image = np.zeros((201, 201), np.float32)
    image[100, 100] = 1.0
    blurred = broad_blur(image, 12.0).astype(float)
    assert blurred.sum() == pytest.approx(1.0, abs=1e-4)
    variance = (blurred.sum(0) * (np.arange(201) - 100) ** 2).sum()
    assert np.sqrt(variance) == pytest.approx(12.0, rel=0.03)


def test_detector_reads_log_attenuation_with_poisson_noise():
    rng = np.random.default_rng(0)
    share, photons = 0.1, 50_000.0
    flat = np.full((128, 128), share, np.float32)
    signal = detect(rng, flat, spacing=1.0, photons=photons, scatter=0.0, blur=0.0)
    assert signal.mean() == pytest.approx(-np.log(share), abs=1e-3)
    # The logarithm of a Poisson count N has standard deviation 1 / sqrt(N).
    assert signal.std() == pytest.approx(1 / np.sqrt(share * photons), rel=0.05)


def test_scatter_lowers_contrast_by_the_scatter_fraction():
    rng = np.random.default_rng(0)
    primary = np.full((64, 64), 0.2, np.float32)
    primary[32, 32] = 0.1
    signal = detect(rng, primary, spacing=40.0, photons=1e8, scatter=0.0, blur=0.0)
    scattered = detect(rng, primary, spacing=0.1, photons=1e8, scatter=0.5, blur=0.0)
    assert signal[32, 32] - signal[0, 0] == pytest.approx(np.log(2), abs=2e-3)
    assert scattered[32, 32] - scattered[0, 0] == pytest.approx(np.log(0.3 / 0.2), abs=2e-3)


def test_power_law_noise_has_the_stated_exponent():
    rng = np.random.default_rng(0)
    noise = [power_law_noise(rng, (64, 64), 3.0) for _ in range(40)]
    spectrum = np.mean(np.abs(np.fft.fft2(noise)[:, 0]) ** 2, axis=0)
    f = np.arange(2, 20)
    slope = np.polyfit(np.log(f), np.log(spectrum[f]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.25)


@pytest.fixture(scope="module")
def patient():
    rng = np.random.default_rng(0)
    femur = draw_femur(rng, "AFF")
    return femur, draw_fracture(rng, femur, "AFF")


def shaft_target(femur, z):
    return np.array([*(float(v) for v in axis_at(femur, z)), z])


@pytest.mark.parametrize("view", ["AP", "lateral"])
def test_camera_magnifies_by_similar_triangles(view):
    target = np.array([3.0, 5.0, 200.0])
    camera = aim(target, view=view, laterality="R", source_distance=1150.0, detector_distance=150.0)
    assert camera.magnification == pytest.approx(1.15)
    assert camera.pixel(target) == pytest.approx((0.0, 0.0))
    assert camera.pixel(target + np.array([0, 0, 10.0])) == pytest.approx((0.0, -11.5))


def test_lateral_side_of_a_right_leg_is_left_in_the_image():
    target = np.array([0.0, 0.0, 200.0])
    for laterality, sign in (("R", -1), ("L", 1)):
        camera = aim(target, view="AP", laterality=laterality)
        assert np.sign(camera.pixel(target + np.array([10.0, 0, 0]))[0]) == sign


def test_projection_is_the_same_for_left_and_mirrored_right(patient):
    femur, fracture = patient
    target = shaft_target(femur, fracture.height)
    images = {}
    for side in "LR":
        camera = aim(target, view="AP", laterality=side)
        images[side] = project(femur, fracture, camera, 24, 20, 8.0)
    np.testing.assert_allclose(images["L"], images["R"][:, ::-1], atol=1e-2)


def test_projected_shaft_shows_two_cortices_and_the_canal(patient):
    """Across the shaft the bone's path length peaks within each cortex and dips between."""
    femur, fracture = patient
    z = 0.5 * femur.length if abs(fracture.height - 0.5 * femur.length) > 40 else 130.0
    camera = aim(shaft_target(femur, z), view="AP", laterality="L")
    row = project(femur, fracture, camera, 1, 161, 0.5)[0]
    bone = row[:, 0]
    edges = np.flatnonzero(bone > 0.5)
    width = (edges[-1] - edges[0]) * 0.5 / camera.magnification
    assert width == pytest.approx(2 * femur.shaft_radius, rel=0.15)
    middle = bone[80]
    assert bone[40:80].max() > 1.3 * middle and bone[80:120].max() > 1.3 * middle
    # Straight through: both walls, each as thick as the cortex.
    assert middle == pytest.approx(2 * femur.cortex, rel=0.2)
    assert row[80, 1] > femur.shaft_radius  # marrow and fat


def test_supersampling_averages_rays(patient):
    femur, fracture = patient
    camera = aim(shaft_target(femur, fracture.height), view="AP", laterality="L")
    fine = project(femur, fracture, camera, 32, 24, 2.0)
    coarse = project(femur, fracture, camera, 16, 12, 4.0, supersample=2)
    np.testing.assert_allclose(coarse, fine.reshape(16, 2, 12, 2, 3).mean((1, 3)), atol=1e-3)


def test_one_compilation_serves_all_patients_and_sizes(patient):
    def trace(femur, fracture, height, width):
        camera = aim(shaft_target(femur, fracture.height), view="AP", laterality="L")
        project(femur, fracture, camera, height, width, 4.0)

    trace(*patient, 16, 16)
    compiled = periosteum._cache_size(), owning_fragment._cache_size()
    rng = np.random.default_rng(2)
    for label in ("AFF", "NFF") * 3:
        femur = draw_femur(rng, label)
        trace(femur, draw_fracture(rng, femur, label), 20, 100)
    assert (periosteum._cache_size(), owning_fragment._cache_size()) == compiled


def test_texture_keeps_the_mean(patient):
    lengths = np.full((64, 64, 3), 20.0, np.float32)
    textured = add_texture(np.random.default_rng(0), lengths)
    np.testing.assert_allclose(textured.mean((0, 1)), 20.0, rtol=1e-3)
    assert textured[..., 0].std() > textured[..., 2].std() > 0
    assert textured[..., 1].std() == 0
    assert jnp.isfinite(textured).all()
