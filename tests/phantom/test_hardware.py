"""Tests of implants and plaster against the patient's bone and skin."""

import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.phantom.anatomy import (
    axis_at,
    cortical_thickness,
    draw_femur,
    head_centre,
    shaft_distance,
    thigh_distance,
)
from femur_jax.phantom.fracture import draw_fracture
from femur_jax.phantom.hardware import (
    IMPLANTS,
    SCREW_PITCH,
    cast_distance,
    draw_hardware,
    foreign_bodies,
    metal_distance,
)


@pytest.fixture(scope="module")
def patient():
    rng = np.random.default_rng(4)
    femur = draw_femur(rng, "NFF")
    fracture = draw_fracture(rng, femur, "NFF")._replace(height=210.0)
    return femur, fracture


def with_implant(patient, name):
    """The first drawn hardware with the given implant."""
    for seed in range(1000):
        hardware = draw_hardware(np.random.default_rng(seed), *patient)
        if IMPLANTS[hardware.implant] == name:
            return hardware
    raise AssertionError(name)


def points(array):
    x, y, z = jnp.asarray(np.asarray(array, np.float32)).T
    return x, y, z


def along_axis(femur, z):
    x, y = (np.asarray(v) for v in axis_at(femur, jnp.asarray(z)))
    return np.stack([x, y, z], -1)


def test_a_nail_and_a_stem_lie_in_the_canal(patient):
    femur, _ = patient
    for name, top in (("nail", 300.0), ("stem", 330.0)):
        hardware = with_implant(patient, name)
        z = np.linspace(max(hardware.bottom + 3.0, 150.0), top, 20)
        axis = along_axis(femur, z)
        assert (np.asarray(metal_distance(femur, hardware, points(axis))) < 0).all()
        for side in ([1, 0, 0], [-1, 0, 0], [0, 1, 0]):
            wall = axis + np.array(side) * (femur.shaft_radius - 2.0)
            assert (np.asarray(metal_distance(femur, hardware, points(wall))) > 0).all()
    stem = with_implant(patient, "stem")
    head = points([[float(v) for v in head_centre(femur)]])
    assert float(metal_distance(femur, stem, head)[0]) < -10


def test_a_plate_lies_on_the_lateral_cortex_and_its_screws_hold_in_both(patient):
    femur, fracture = patient
    hardware = with_implant(patient, "plate")
    z = np.linspace(hardware.bottom + 5, hardware.top - 5, 200)
    depth = np.linspace(-6, 25, 311)
    axis = along_axis(femur, z)
    grid = axis[:, None] + np.array([1.0, 0, 0]) * (femur.shaft_radius - 5.0 + depth[:, None])
    p = points(grid.reshape(-1, 3))
    metal = np.asarray(metal_distance(femur, hardware, p)).reshape(200, -1) < 0
    outside = np.asarray(shaft_distance(femur, p)).reshape(200, -1) > 0
    thickness = (metal & outside).sum(1) * 0.1
    assert np.median(thickness) == pytest.approx(4.6, abs=0.5)
    # Along the far cortex there is metal at each screw, and none at the fracture.
    far = points(axis - np.array([1.0, 0, 0]) * (femur.shaft_radius - 2.0))
    hits = np.asarray(metal_distance(femur, hardware, far)) < 0
    screws = (np.diff(hits.astype(int)) == 1).sum()
    assert screws in (6, 7, 8, 9, 10) and screws <= (hardware.top - hardware.bottom) / SCREW_PITCH
    assert not hits[np.abs(z - fracture.height) < 8].any()


def test_plaster_surrounds_the_thigh_or_only_its_back(patient):
    femur, _ = patient
    hardware = draw_hardware(np.random.default_rng(0), *patient)
    hardware = hardware._replace(cast=6.0, cast_top=250.0, splint=0.0)
    rng = np.random.default_rng(1)
    p = rng.uniform([-120, -120, 50], [120, 120, 300], (4000, 3))
    skin = np.asarray(thigh_distance(femur, points(p)))
    inside = np.asarray(cast_distance(femur, hardware, points(p))) < 0
    np.testing.assert_array_equal(inside, (skin > 3) & (skin < 9) & (p[:, 2] < 250))
    splint = hardware._replace(splint=1.0)
    behind = np.asarray(cast_distance(femur, splint, points(p))) < 0
    np.testing.assert_array_equal(behind, inside & (p[:, 1] < 0))
    bare = np.asarray(cast_distance(femur, hardware._replace(cast=0.0), points(p)))
    assert (bare > 0).all()


def test_a_few_per_cent_carry_something_of_the_stated_material(patient):
    femur, _ = patient
    rng = np.random.default_rng(0)
    drawn = [draw_hardware(rng, *patient) for _ in range(2000)]
    kinds = np.bincount([hardware.implant for hardware in drawn], minlength=4) / 2000
    assert ((kinds[1:] > 0.01) & (kinds[1:] < 0.03)).all()
    assert 0.02 < np.mean([hardware.cast > 0 for hardware in drawn]) < 0.04
    materials = {
        IMPLANTS[h.implant]: [body.material for body in foreign_bodies(femur, h._replace(cast=0.0))]
        for h in drawn
    }
    assert materials == {
        "none": [],
        "nail": ["titanium"],
        "plate": ["steel"],
        "stem": ["titanium"],
    }


def test_cortex_leaves_room_for_nails(patient):
    femur, _ = patient
    hardware = with_implant(patient, "nail")
    middle = along_axis(femur, np.array([200.0]))
    canal = femur.shaft_radius - float(cortical_thickness(femur, points(middle))[0])
    assert hardware.radius < canal
