"""Tests of the femur's shape and of the drawn patients."""

import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.phantom.anatomy import (
    axis_at,
    capsule,
    cortical_thickness,
    draw_femur,
    ellipsoid,
    elliptic_tube,
    femur_distance,
    head_centre,
    other_side,
    shaft_distance,
)


def points(array):
    return tuple(jnp.asarray(np.asarray(array, np.float32)).T)


def test_capsule_distance_is_exact():
    distance = capsule(
        points([[3, 0, 5], [0, 0, 14], [0, 0, 5]]), (0.0, 0.0, 0.0), (0.0, 0.0, 10.0), 2.0
    )
    np.testing.assert_allclose(distance, [1.0, 2.0, -2.0], atol=1e-5)


def test_first_order_distances_vanish_on_the_surface_with_unit_slope():
    azimuth = np.linspace(0.1, 2 * np.pi, 12)
    surface = np.stack([3 * np.cos(azimuth), 5 * np.sin(azimuth), 0 * azimuth], -1)
    normal = np.stack([np.cos(azimuth) / 3, np.sin(azimuth) / 5, 0 * azimuth], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    for body in (
        lambda p: ellipsoid(p, (0.0, 0.0, 0.0), (3.0, 5.0, 7.0)),
        lambda p: elliptic_tube(p[0], p[1], 3.0, 5.0),
    ):
        np.testing.assert_allclose(body(points(surface)), 0, atol=1e-5)
        np.testing.assert_allclose(body(points(surface + 0.01 * normal)), 0.01, rtol=0.02)


@pytest.fixture(scope="module")
def femur():
    return draw_femur(np.random.default_rng(3), "NFF")


def test_antecurvation_has_the_stated_radius(femur):
    """Three points of the shaft's axis lie on a circle with the radius `bow_radius`."""
    z = np.array([150.0, 200.0, 250.0])
    _, y = (np.asarray(v, np.float64) for v in axis_at(femur, jnp.asarray(z, jnp.float32)))
    a, b, c = (np.array(v) for v in zip(z, y, strict=True))
    sides = [np.linalg.norm(p - q) for p, q in ((b, c), (c, a), (a, b))]
    area = 0.5 * abs((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0])
    assert np.prod(sides) / (4 * area) == pytest.approx(femur.bow_radius, rel=0.01)


def test_landmarks_lie_inside_the_bone(femur):
    head = np.array([float(v) for v in head_centre(femur)])
    middle = [float(v) for v in axis_at(femur, 200.0)] + [200.0]
    outside = [femur.condyle_width, 0.0, 200.0]
    inside = [head, middle, [-0.27 * femur.condyle_width, -12.0, 25.0]]
    distance = np.asarray(femur_distance(femur, points([*inside, outside])))
    assert (distance[:3] < -5).all()
    assert distance[3] > 30
    # The angle between head and shaft is the neck-shaft angle.
    neck = head - [0, 0, float(femur.neck_height)]
    assert np.arccos(-neck[2] / np.linalg.norm(neck)) == pytest.approx(femur.neck_angle, abs=1e-4)


def test_cortex_is_thick_at_mid_shaft_and_thin_at_the_ends(femur):
    x, y = (float(v) for v in axis_at(femur, 220.0))
    thickness = cortical_thickness(femur, points([[x, y, 220.0], [0, 0, 30.0], [-40, 0, 420.0]]))
    assert thickness[0] == pytest.approx(femur.cortex, rel=0.02)
    assert (np.asarray(thickness[1:]) < 1.5).all()
    # The cortices do not meet: there is a canal.
    assert -float(shaft_distance(femur, points([[x, y, 220.0]]))[0]) > 1.1 * femur.cortex


def test_cortex_tapers_from_mid_shaft(femur):
    z = np.linspace(0.34, 0.7, 9) * femur.length
    x, y = (np.asarray(v) for v in axis_at(femur, jnp.asarray(z)))
    thickness = np.asarray(cortical_thickness(femur, points(np.stack([x, y, z], -1))))
    assert 3 <= np.argmax(thickness) <= 5
    assert (np.diff(thickness)[:3] > 0).all() and (np.diff(thickness)[5:] < 0).all()
    assert thickness.min() > 0.6 * thickness.max()


def test_the_other_leg_is_a_mirror_image_across_the_midline(femur):
    femur = femur._replace(midline=80.0)
    p = np.random.default_rng(0).uniform(-200, 200, (50, 3))
    mirrored = np.stack([np.asarray(v, float) for v in other_side(femur, points(p))], -1)
    middle = 0.5 * (p + mirrored)
    # All connections are parallel to the normal of one plane, which holds all midpoints and is
    # 80 mm from the shaft's axis at the knee.
    rank = np.linalg.matrix_rank(mirrored - p, tol=1e-2)
    normal = np.linalg.svd(mirrored - p)[2][0]
    assert rank == 1
    np.testing.assert_allclose(middle @ normal, (middle @ normal)[0], atol=1e-2)
    np.testing.assert_allclose(normal @ [-80.0, 0, 0], (middle @ normal)[0], atol=1e-2)


def test_atypical_patients_are_more_bowed_with_a_thicker_lateral_cortex():
    rng = np.random.default_rng(0)
    patients = {label: [draw_femur(rng, label) for _ in range(300)] for label in ("AFF", "NFF")}

    def mean(label, name):
        return np.mean([getattr(femur, name) for femur in patients[label]])

    assert mean("AFF", "bow_radius") < mean("NFF", "bow_radius") - 100
    assert mean("AFF", "lateral_bow") > mean("NFF", "lateral_bow") + 2.5
    assert mean("AFF", "lateral_cortex") > mean("NFF", "lateral_cortex") + 0.1
    every = [femur.bow_radius for femurs in patients.values() for femur in femurs]
    assert np.mean(every) == pytest.approx(943, abs=60)
    # Measurements that do not define the class do not differ between the classes.
    assert mean("AFF", "shaft_radius") == pytest.approx(mean("NFF", "shaft_radius"), abs=0.3)
    assert mean("AFF", "thigh_radius") == pytest.approx(mean("NFF", "thigh_radius"), abs=3)
