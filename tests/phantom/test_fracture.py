"""Tests of the geometry of atypical and normal fractures."""

import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.phantom.anatomy import axis_at, draw_femur, other_side
from femur_jax.phantom.fracture import (
    TYPES,
    ao_code,
    beak_height,
    draw_fracture,
    flare_height,
    fragment_distance,
    reduce,
)
from femur_jax.phantom.volume import bone_path, owning_fragment


def mineral(femur, fracture, p):
    """Mineralised share of short vertical lines around points."""
    x, y, z = np.broadcast_to(np.asarray(p, np.float32).T[:, None], (3, 5, len(p)))
    line = jnp.asarray(x), jnp.asarray(y), jnp.asarray(z + np.linspace(-0.02, 0.02, 5)[:, None])
    return np.asarray(bone_path(femur, fracture, line)[0])


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(1)
    result = {}
    for label in ("AFF", "NFF"):
        femurs = [draw_femur(rng, label) for _ in range(400)]
        result[label] = [(femur, draw_fracture(rng, femur, label)) for femur in femurs]
    return result


def test_atypical_fractures_meet_the_criteria(cases):
    angles = np.array([fracture.angle_deg for _, fracture in cases["AFF"]])
    assert angles.min() >= 0.3 and angles.max() <= 18.0
    assert np.median(angles) == pytest.approx(4.8, abs=0.8)
    below = np.array([float(femur.lesser_trochanter) - f.height for femur, f in cases["AFF"]])
    assert np.mean(below < 80) == pytest.approx(25 / 129, abs=0.06)
    for femur, fracture in cases["AFF"]:
        assert 0.2 * femur.length < fracture.height < femur.lesser_trochanter
        assert not fracture.wedge_length.any()
        assert np.degrees(np.arctan(abs(fracture.slope[0]))) == pytest.approx(fracture.angle_deg)


def test_incomplete_fractures_are_not_displaced_and_leave_the_medial_cortex(cases):
    incomplete = [(femur, f) for femur, f in cases["AFF"] if f.reach > -100]
    assert 0.2 < len(incomplete) / len(cases["AFF"]) < 0.4
    femur, fracture = incomplete[0]
    np.testing.assert_array_equal(fracture.translation[1], 0)
    np.testing.assert_array_equal(fracture.rotation[1], np.eye(3, dtype=np.float32))
    x, y = (float(v) for v in axis_at(femur, fracture.height))

    def least_mineral(side):
        z = np.linspace(-8, 8, 161) + fracture.height
        edge = x + side * (femur.shaft_radius - 2.5)
        p = np.stack([np.full_like(z, edge), np.full_like(z, y), z], -1)
        return mineral(femur, fracture, p).min()

    assert least_mineral(1.0) == pytest.approx(0, abs=0.01)
    assert least_mineral(-1.0) == pytest.approx(1, abs=0.01)


def test_thickening_of_the_lateral_cortex_is_frequent_but_not_a_mark_of_the_class(cases):
    beak = {label: np.array([f.beak for _, f in drawn]) for label, drawn in cases.items()}
    flare = np.array([f.flare for _, f in cases["AFF"]])
    both, neither = (beak["AFF"] > 0) & (flare > 0), (beak["AFF"] == 0) & (flare == 0)
    assert 0.25 < both.mean() < 0.5
    assert 0.05 < neither.mean() < 0.15
    assert 0 < (beak["NFF"] > 0).mean() < 0.1


def test_normal_fractures_are_of_all_types_and_mostly_steep(cases):
    angles = np.array([fracture.angle_deg for _, fracture in cases["NFF"]])
    assert 0.75 < np.mean(angles > 30) < 0.95
    kinds = [TYPES[fracture.type] for _, fracture in cases["NFF"]]
    assert all(kinds.count(kind) > 0.06 * len(kinds) for kind in TYPES)
    below = np.array([float(femur.lesser_trochanter) - f.height for femur, f in cases["NFF"]])
    assert 0.05 < np.mean(below < 0) < 0.14  # pertrochanteric
    for femur, fracture in cases["NFF"]:
        rise = np.hypot(*fracture.slope) + abs(fracture.pitch) / (2 * np.pi * femur.shaft_radius)
        assert np.degrees(np.arctan(rise)) == pytest.approx(fracture.angle_deg, abs=1e-3)


def test_fractures_are_coded_by_type_and_site(cases):
    femur, fracture = cases["NFF"][0]
    top = float(femur.lesser_trochanter)
    for kind, below, code in (
        ("oblique", -8.0, "31A1"),
        ("comminuted", -8.0, "31A2"),
        ("spiral", 20.0, "32A1(a)"),
        ("transverse", 0.5 * (top - 0.265 * femur.length), "32A3(b)"),
        ("wedge", top - 0.28 * femur.length, "32B2(c)"),
        ("oblique", top - 0.2 * femur.length, "33A2"),
    ):
        case = fracture._replace(type=TYPES.index(kind), height=top - below)
        assert ao_code(femur, case) == code


def test_reduction_leaves_a_share_of_the_displacement(cases):
    _, fracture = next(c for c in cases["NFF"] if np.abs(c[1].translation[1]).max() > 5)
    reduced = reduce(fracture, 0.5)
    np.testing.assert_allclose(reduced.translation, 0.5 * fracture.translation, rtol=1e-5)
    # Two half turns make the whole turn.
    twice = np.asarray(reduced.rotation, float) @ np.asarray(reduced.rotation, float)
    np.testing.assert_allclose(twice, fracture.rotation, atol=1e-5)


def test_motions_are_rigid(cases):
    for _, fracture in cases["NFF"][:50]:
        for rotation in np.asarray(fracture.rotation, np.float64):
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
            assert np.linalg.det(rotation) == pytest.approx(1.0, abs=1e-5)


def test_fragments_move_as_their_rigid_motion_says(cases):
    """The content of a condyle moves with its rotation and translation."""
    femur, fracture = next(c for c in cases["NFF"] if np.abs(c[1].translation[1]).max() > 5)
    whole = fracture._replace(
        rotation=np.stack([np.eye(3, dtype=np.float32)] * 4),
        translation=np.zeros((4, 3), np.float32),
    )
    rng = np.random.default_rng(0)
    p = rng.uniform([-35, -30, 10], [35, 20, 60], (200, 3))
    centre = np.array([0, 0, fracture.height])
    moved = (p - centre) @ np.asarray(fracture.rotation[1], float).T + centre
    moved = moved + fracture.translation[1]

    np.testing.assert_allclose(mineral(femur, fracture, moved), mineral(femur, whole, p), atol=2e-2)
    owner, *_ = owning_fragment(femur, fracture, tuple(jnp.asarray(moved.T, jnp.float32)))
    assert (np.asarray(owner) == 1).all()


def test_the_other_leg_stays_whole(cases):
    """The middle of the other leg's lateral and medial cortex is bone from hip to knee."""
    for femur, fracture in cases["NFF"][:12]:
        femur = femur._replace(midline=70.0)
        z = np.linspace(155, 300, 40)
        x, y = (np.asarray(v) for v in axis_at(femur, jnp.asarray(z)))
        for side in (1.0, -1.0):
            wall = np.stack([x + side * (femur.shaft_radius - 2.5), y, z], -1)
            mirrored = other_side(femur, tuple(jnp.asarray(wall.T, jnp.float32)))
            np.testing.assert_allclose(
                mineral(femur, fracture, np.stack(mirrored, -1)), 1.0, atol=0.01
            )


def test_transverse_fracture_leaves_the_stated_gap(cases):
    femur, fracture = next(c for c in cases["AFF"] if c[1].reach < -100)
    fracture = fracture._replace(slope=np.zeros(2), medial_slope=0.0, spike=0.0, roughness=0.0)
    z = jnp.linspace(-5, 5, 2001)
    local = (jnp.zeros_like(z), jnp.zeros_like(z), z)
    solid = jnp.minimum(*(fragment_distance(femur, fracture, k, local) for k in (0, 1))) < 0
    cosine = np.cos(np.deg2rad(fracture.angle_deg))
    assert float((~solid).mean() * 10) == pytest.approx(fracture.gap / cosine, abs=0.02)


def test_beak_and_flare_are_lateral_and_peak_at_the_fracture(cases):
    femur, fracture = cases["AFF"][0]
    fracture = fracture._replace(beak=3.0, flare=2.0)
    x, y = (float(v) for v in axis_at(femur, fracture.height))
    r = femur.shaft_radius
    top = fracture.height + r * fracture.slope[0]
    spots = [(x + r, y, top), (x - r, y, fracture.height), (x + r, y, top + fracture.beak_width)]
    p = tuple(jnp.asarray(spots, jnp.float32).T)
    np.testing.assert_allclose(beak_height(femur, fracture, p), [3, 0, 0], atol=0.24)
    np.testing.assert_allclose(flare_height(femur, fracture, p), [2, 0, 0], atol=0.16)
