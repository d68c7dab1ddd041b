"""Tests of exposures against geometry, closed forms and rays traced at every pixel."""

import jax
import numpy as np
import pytest

from femur_jax.phantom import scene as scene_module
from femur_jax.phantom import xray
from femur_jax.phantom.anatomy import axis_at, draw_femur, sphere
from femur_jax.phantom.camera import aim
from femur_jax.phantom.fracture import draw_fracture
from femur_jax.phantom.scene import Implant, Scene
from femur_jax.phantom.spectrum import ATTENUATION, WEIGHTS
from femur_jax.phantom.texture import Texture
from femur_jax.phantom.volume import owning_fragment
from femur_jax.phantom.xray import expose

EVEN = Texture(np.zeros((2, 2), np.float32), 10.0)


@pytest.fixture(scope="module")
def patient():
    rng = np.random.default_rng(0)
    femur = draw_femur(rng, "AFF")
    return femur, draw_fracture(rng, femur, "AFF")


def shaft_target(femur, z):
    return np.array([*(float(v) for v in axis_at(femur, z)), z])


def plain_shaft(femur, fracture):
    """A level of the shaft away from the fracture."""
    return 0.5 * femur.length if abs(fracture.height - 0.5 * femur.length) > 40 else 130.0


def exposure(patient, z, shape, spacing, view="AP", laterality="L", implants=(), **beam):
    femur, fracture = patient
    camera = aim(shaft_target(femur, z), view=view, laterality=laterality)
    size = (shape[0] * spacing, shape[1] * spacing)
    scene = Scene(femur, fracture, camera, size, implants)
    return expose(scene, shape, spacing, muscle=EVEN, **({"scatter": 0.0} | beam))


def signal(*arguments, **options):
    picture = exposure(*arguments, **options)
    return picture.rows(0, picture.shape[0])[0]


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


def test_image_is_the_same_for_left_and_mirrored_right(patient):
    z = patient[1].height
    left, right = (signal(patient, z, (24, 20), 8.0, laterality=side) for side in "LR")
    np.testing.assert_allclose(left, right[:, ::-1], atol=0.02)


def test_rays_cross_two_cortices_and_the_canal(patient):
    """Across the shaft, the path length in bone peaks in each cortex and is lower in between."""
    femur, fracture = patient
    z = plain_shaft(femur, fracture)
    camera = aim(shaft_target(femur, z), view="AP", laterality="L")
    scene = Scene(femur, fracture, camera, (10.0, 80.0))
    right = np.arange(-40, 40.5, 0.5, dtype=np.float32)
    lengths = scene.lengths(0 * right, right)
    bone = lengths["bone"]
    edges = right[bone > 0.5]
    width = np.ptp(edges) / camera.magnification
    assert width == pytest.approx(2 * femur.shaft_radius, rel=0.15)
    middle = bone[80]
    assert bone[40:80].max() > 1.3 * middle and bone[80:120].max() > 1.3 * middle
    # The central ray passes both walls, each as thick as the cortex.
    assert middle == pytest.approx(2 * femur.cortex, rel=0.2)
    assert lengths["adipose"][80] > femur.shaft_radius  # marrow and fat
    total = sum(length[80] for length in lengths.values())
    assert total == pytest.approx(2 * femur.thigh_radius, rel=0.15)


@pytest.mark.parametrize("view", ["AP", "lateral"])
def test_sparse_rays_give_the_image_of_a_ray_at_every_pixel(patient, view, monkeypatch):
    _, fracture = patient
    shape, spacing = (300, 150), 0.2
    sparse = exposure(patient, fracture.height, shape, spacing, view=view)
    monkeypatch.setattr(xray, "COARSEST_STEP", 1)
    dense = exposure(patient, fracture.height, shape, spacing, view=view)
    assert dense.image.sampled == shape[0] * shape[1]
    assert sparse.image.sampled < 0.3 * dense.image.sampled
    error = np.abs(sparse.rows(0, shape[0])[0] - dense.rows(0, shape[0])[0])
    # The noise of 10^5 photons behind a thigh is 0.02 or more.
    assert error.mean() < 0.003
    assert np.quantile(error, 0.999) < 0.1


def test_coarse_pixels_average_the_rays_of_fine_ones(patient):
    z = patient[1].height
    fine = signal(patient, z, (64, 48), 0.5)
    coarse = signal(patient, z, (32, 24), 1.0)
    np.testing.assert_allclose(coarse, fine.reshape(32, 2, 24, 2).mean((1, 3)), atol=5e-3)


def test_scatter_lowers_contrast_by_the_scatter_fraction(patient):
    """Scatter of s times the mean m of the beam T gives log (1 + s) - log (T + s m)."""
    femur, fracture = patient
    z = plain_shaft(femur, fracture)
    primary = np.exp(-signal(patient, z, (8, 8), 0.5).astype(float))
    scattered = signal(patient, z, (8, 8), 0.5, scatter=0.4)
    spread = primary.mean()  # a spread of 40 mm is much wider than this field of 4 mm
    expected = np.log(1.4) - np.log(primary + 0.4 * spread)
    np.testing.assert_allclose(scattered, expected, atol=0.02)


def test_heel_effect_is_linear_in_the_angle(patient):
    z = patient[1].height
    shape, spacing = (60, 40), 6.0
    even, heel = (signal(patient, z, shape, spacing, heel=h) for h in ((0.0, 0.0), (0.8, -0.5)))
    down = (np.arange(60) - 29.5)[:, None] * spacing / 1150
    right = (np.arange(40) - 19.5) * spacing / 1150
    np.testing.assert_allclose(np.exp(even - heel), 1 + 0.8 * down - 0.5 * right, rtol=0.01)


def ball(centre, p):
    return sphere(p, (centre[0], centre[1], centre[2]), 8.0)


def test_an_implant_adds_its_chord_and_displaces_tissue(patient):
    """A steel ball next to the shaft agrees with the Beer-Lambert law in float64."""
    femur, fracture = patient
    target = shaft_target(femur, plain_shaft(femur, fracture))
    camera = aim(target, view="AP", laterality="L")
    position = target + np.array([35.0, 0.0, 0.0])
    centre = tuple(np.float32(position))
    steel = Implant(jax.tree_util.Partial(ball, centre), "steel")
    right, down = (np.float32([v]) for v in camera.pixel(position))
    lengths = [
        Scene(femur, fracture, camera, (60.0, 120.0), implants).lengths(down, right)
        for implants in ((), (steel,))
    ]
    assert lengths[1]["steel"][0] == pytest.approx(16.0, abs=0.3)
    assert lengths[0]["soft"][0] - lengths[1]["soft"][0] == pytest.approx(16.0, abs=0.3)
    image = signal(patient, target[2], (40, 90), 1.0, implants=(steel,))
    others = {m: float(length[0]) for m, length in lengths[1].items()}
    exponent = sum(ATTENUATION[m] * length for m, length in others.items())
    row, column = round(float(down[0]) + 19.5), round(float(right[0]) + 44.5)
    expected = -np.log(np.sum(WEIGHTS * np.exp(-exponent)))
    assert image[row, column] == pytest.approx(expected, rel=0.02)


def test_one_compilation_serves_all_patients_and_sizes(patient):
    programs = (owning_fragment, scene_module.points, scene_module.bounds)

    def compiled():
        return [program._cache_size() for program in programs]

    exposure(patient, patient[1].height, (16, 16), 4.0)
    before = compiled()
    rng = np.random.default_rng(2)
    for label in ("AFF", "NFF") * 3:
        femur = draw_femur(rng, label)
        fracture = draw_fracture(rng, femur, label)
        exposure((femur, fracture), fracture.height, (20, 100), 2.0)
    assert compiled() == before
