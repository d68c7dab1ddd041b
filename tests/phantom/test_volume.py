"""Tests of paths through bodies against closed forms and dense float64 sums."""

import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.phantom.anatomy import axis_at, draw_femur, elliptic_tube, sphere
from femur_jax.phantom.fracture import draw_fracture
from femur_jax.phantom.volume import (
    Rays,
    _cortex,
    before_fracture,
    bone_path,
    bounds,
    inside,
    overlap,
    owning_fragment,
    points,
    share_inside,
    soft_path,
)

AXES = np.eye(3, dtype=np.float32)


def rays(right, near, far):
    """An oblique fan of rays from z = -1000 towards points to the right of (0, 0, 100)."""
    right = np.asarray(right, np.float32)
    ends = [np.full_like(right, t) for t in (near, far)]
    middle = np.array([0, 0, 1100], np.float32)
    return Rays(
        np.array([0, 0, -1000], np.float32), middle, AXES[[1, 0]], 0.3 * right, right, *ends
    )


def closest(bundle):
    """Distance of each ray from the origin, in float64."""
    direction = bundle.middle.astype(float)[:, None]
    direction = direction + np.outer(AXES[1], bundle.down) + np.outer(AXES[0], bundle.right)
    direction /= np.linalg.norm(direction, axis=0)
    return np.linalg.norm(np.cross(bundle.source.astype(float), direction.T), axis=1)


def test_points_lie_on_the_rays_at_equal_distances():
    bundle = rays([-20.0, 5.0], 900.0, 1100.0)
    p = np.stack(points(bundle, 4)).astype(float)
    distance = np.linalg.norm(p - bundle.source[:, None, None], axis=0)
    np.testing.assert_allclose(distance, np.linspace(900, 1100, 5)[:, None] + [0, 0], atol=1e-3)
    np.testing.assert_allclose(p[0] / (p[2] + 1000), [[-20 / 1100, 5 / 1100]] * 5, atol=1e-6)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(-1, -3, (0, 1)), (1, -3, (0.25, 1)), (-1, 3, (0, 0.25)), (1, 3, None), (0, 2, None)],
)
def test_inside_is_where_a_line_is_negative(start, end, expected):
    first, last = (float(v) for v in inside(jnp.float32(start), jnp.float32(end)))
    if expected is None:
        assert last - first == 0
    else:
        assert (first, last) == pytest.approx(expected)


def test_overlap_of_intervals():
    def scalars(a, b):
        return jnp.float32(a), jnp.float32(b)

    assert float(overlap(scalars(0.1, 0.6), scalars(0.4, 1.0))) == pytest.approx(0.2)
    assert float(overlap(scalars(0.0, 0.3), scalars(0.4, 1.0))) == 0


def test_path_through_a_sphere_is_the_chord():
    bundle = rays(np.linspace(-28, 28, 41), 960.0, 1040.0)
    share = share_inside(sphere(points(bundle, 24), (0.0, 0.0, 0.0), 30.0))
    chord = 2 * np.sqrt(30.0**2 - closest(bundle) ** 2)
    np.testing.assert_allclose(80.0 * share, chord, atol=0.15)


def test_a_wall_thinner_than_the_distance_of_nodes_is_not_lost():
    """The path in a wall of 1.2 mm, with nodes 2.7 mm apart, is the difference of two chords."""
    outer, inner = 14.0, 12.8
    right = np.linspace(-9, 9, 21).astype(np.float32)
    near, far = np.full_like(right, 935.0), np.full_like(right, 1065.0)
    source, middle = AXES[1] * -1000, AXES[1] * 1000
    p = points(Rays(source, middle, AXES[[2, 0]], 0 * right, right, near, far), 48)
    path = [130.0 * share_inside(elliptic_tube(p[0], p[1], r, r)) for r in (outer, inner)]
    offset = 1000.0 * right / np.hypot(1000.0, right)
    chords = [2 * np.sqrt(r**2 - offset**2) for r in (outer, inner)]
    np.testing.assert_allclose(path[0] - path[1], chords[0] - chords[1], atol=0.12)


def test_bounds_hold_the_body_and_its_margin():
    bundle = rays([0.0, 40.0, 80.0], 900.0, 1100.0)
    p = points(bundle, 48)
    near, far = bounds(sphere(p, (0.0, 0.0, 0.0), 20.0), 5.0)
    half = np.sqrt(25.0**2 - closest(bundle)[0] ** 2)
    assert 900 + 200 * near[0] == pytest.approx(1000 - half, abs=0.1)
    assert 900 + 200 * far[0] == pytest.approx(1000 + half, abs=0.1)
    assert near[1] > far[1] and near[2] > far[2]


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(1)
    femurs = [(label, draw_femur(rng, label)) for label in ("AFF", "NFF") * 12]
    return [(label, femur, draw_fracture(rng, femur, label)) for label, femur in femurs]


def test_a_transverse_gap_is_missing_from_the_path_along_the_cortex(patients):
    """A path of 40 mm along the wall is shortened by the gap, wherever the nodes lie."""
    _, femur, fracture = next(c for c in patients if c[0] == "AFF" and c[2].reach < -100)
    fracture = fracture._replace(
        slope=np.zeros(2), medial_slope=0.0, spike=0.0, roughness=0.0, angle_deg=0.0, beak=0.0,
        rotation=np.stack([AXES] * 4), translation=np.zeros((4, 3), np.float32),
    )  # fmt: skip
    x, y = (float(v) for v in axis_at(femur, fracture.height))
    for shift in (-0.7, 0.0, 0.4):
        z = np.linspace(-20, 20, 25, dtype=np.float32)[:, None] + fracture.height + shift
        wall = x + np.float32(femur.shaft_radius - 3.0)
        mineral, whole = bone_path(
            femur, fracture, tuple(jnp.asarray(a + 0 * z) for a in (wall, np.float32(y), z))
        )
        assert 40 * float(mineral[0]) == pytest.approx(40 - fracture.gap, abs=0.05)
        assert 40 * float(whole[0]) == pytest.approx(40 - fracture.gap, abs=0.05)


def test_few_nodes_agree_with_a_dense_sum(patients):
    """Paths through fractures by 24 intervals equal the count of 2001 points inside."""
    rng = np.random.default_rng(0)
    errors = []
    for _, femur, fracture in patients[:4]:
        x, y = (float(v) for v in axis_at(femur, fracture.height))
        across = np.float32(x + rng.uniform(-25, 25, 40))
        height = np.float32(fracture.height + rng.uniform(-40, 40, 40))

        def along(nodes, x=across, y=y, z=height):
            depth = nodes[:, None] + 0 * x
            return tuple(
                jnp.asarray(a, jnp.float32) for a in (x + 0 * depth, y + depth, z + 0 * depth)
            )

        few = bone_path(femur, fracture, along(np.linspace(-30, 30, 25)))
        p = along(np.linspace(-30, 30, 2001))
        owner, regions, _ = owning_fragment(femur, fracture, p)
        outer, inner, trabecular = _cortex(femur, fracture, before_fracture(fracture, owner, p))
        region = np.take_along_axis(np.stack(regions), np.asarray(owner)[None], 0)[0]
        solid = (np.asarray(outer) < 0) & (region < 0)
        mineral = solid * np.where(np.asarray(inner) < 0, trabecular, 1.0)
        errors += [60 * np.abs(few[0] - mineral.mean(0)), 60 * np.abs(few[1] - solid.mean(0))]
    # Paths are up to 30 mm long. A smeared surface would have errors of a step, 2.5 mm.
    assert np.mean(errors) < 0.2
    assert np.quantile(errors, 0.95) < 1.6


def test_soft_tissue_is_the_ellipse_of_the_thigh(patients):
    """One ray passes the thigh's middle from front to back, the other 5 mm outside of the thigh."""
    _, femur, _ = patients[0]
    z = 0.5 * femur.length
    x, y = (float(v) for v in axis_at(femur, z))
    x, y = x - 12.0, y - 9.0
    across = np.float32([x, x + femur.thigh_radius + 5.0])
    depth = np.linspace(-150, 150, 61, dtype=np.float32)[:, None]
    p = tuple(
        jnp.asarray(a, jnp.float32)
        for a in (across + 0 * depth, y + depth + 0 * across, z + 0 * depth + 0 * across)
    )
    skin, fascia = soft_path(femur, p)
    np.testing.assert_allclose(300 * skin, [2 * femur.thigh_radius, 0], rtol=0.01)
    np.testing.assert_allclose(300 * fascia, [2 * (femur.thigh_radius - femur.fat), 0], rtol=0.01)
