"""Tests of the ground truth against the rendered image."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from femur_jax.phantom.anatomy import axis_at, draw_femur
from femur_jax.phantom.camera import aim
from femur_jax.phantom.fracture import EVERYWHERE, draw_fracture
from femur_jax.phantom.hardware import draw_hardware
from femur_jax.phantom.scene import Scene
from femur_jax.phantom.truth import describe_image, describe_patient

SHAPE, SPACING = (140, 80), 0.7


def bone_image(femur, fracture, camera):
    """Path in mm through mineralised bone for each pixel."""
    height, width = SHAPE
    down = (np.arange(height) - 0.5 * (height - 1)) * SPACING
    right = (np.arange(width) - 0.5 * (width - 1)) * SPACING
    pixels = [a.ravel().astype("f4") for a in np.meshgrid(down, right, indexing="ij")]
    scene = Scene(femur, fracture, camera, (height * SPACING, width * SPACING))
    return np.asarray(scene.lengths(*pixels)["bone"]).reshape(SHAPE)


def at(image, points):
    """Values of the image at points [column, row]."""
    return map_coordinates(image, np.asarray(points)[:, ::-1].T, order=1, mode="nearest")


@pytest.fixture(scope="module", params=["AP", "lateral"])
def case(request):
    """A transverse fracture at mid-shaft whose distal fragment moved 6 mm sideways and 4 down."""
    rng = np.random.default_rng(2)
    # With an even wall, the brightest ridge is where rays touch the inner circle.
    femur = draw_femur(rng, "AFF")._replace(cortex=5.0, lateral_cortex=0.0)
    fracture = draw_fracture(rng, femur, "AFF")
    fracture = fracture._replace(
        height=0.5 * femur.length,
        reach=EVERYWHERE,
        medial_slope=0.0,
        spike=0.0,
        beak=0.0,
        flare=0.0,
        gap=2.5,
        rotation=np.stack([np.eye(3, dtype=np.float32)] * 4),
        translation=np.array([[0, 0, 0], [6, 6, -4], [0, 0, 0], [0, 0, 0]], np.float32),
    )
    x, y = (float(v) for v in axis_at(femur, fracture.height))
    camera = aim(np.array([x, y, fracture.height]), view=request.param, laterality="R")
    truth = describe_image(femur, fracture, camera, request.param, SHAPE, SPACING)
    return femur, fracture, camera, request.param, truth, bone_image(femur, fracture, camera)


def test_image_is_dark_between_the_fracture_lines_and_bright_beyond(case):
    femur, _, _, _, truth, image = case
    lines = [np.array(line) for line in truth["fracture_lines"]]
    across = image[:, int(lines[0][:, 0].min()) : int(lines[0][:, 0].max())].mean(1)
    upper, lower = lines[0][:, 1].mean(), lines[1][:, 1].mean()
    gap = (4.0 + 2.5) / SPACING  # the displacement plus the width of the fracture line
    assert 4.0 / SPACING < lower - upper < 1.3 * gap
    middle = round(0.5 * (upper + lower))
    assert across[middle] < 0.1 * across[round(upper) - 8]
    assert across[round(lower) + 8] > 0.5 * across[round(upper) - 8]
    left, top, right, bottom = truth["fracture_box"]
    assert top < middle < bottom
    assert right - left > 2 * femur.shaft_radius / SPACING
    x, y = truth["fracture_centre"]
    assert left < x < right and top < y < bottom


def test_periosteum_lies_at_the_edge_of_bone_and_endosteum_on_the_brightest_ridge(case):
    """The path across a tube is longest where the ray touches the inner wall."""
    *_, truth, image = case
    assert len(truth["cortices"]) == 4
    for cortex in truth["cortices"]:
        outer, inner = (np.array(cortex[name]) for name in ("periosteum", "endosteum"))
        count = min(len(outer), len(inner))
        outer, inner = outer[:count], inner[:count]
        rows = np.abs(outer[:, 1] - np.mean(truth["fracture_centre"][1])) > 14
        outer, inner = outer[rows], inner[rows]
        inward = (inner - outer) / np.linalg.norm(inner - outer, axis=1, keepdims=True)
        steps = np.linspace(-5, 20, 101)
        profile = np.mean([at(image, outer + s * inward) for s in steps], axis=1)
        assert profile[steps < -1].max() < 0.1 * profile.max()  # no bone outside
        assert steps[profile > 0.3 * profile.max()][0] == pytest.approx(0, abs=1.2)
        thickness = np.linalg.norm(inner - outer, axis=1).mean()
        near = (steps > 0) & (steps < 15)
        ridge = steps[near][np.argmax(profile[near])]
        assert ridge == pytest.approx(thickness, abs=1.6)


def test_sides_have_their_anatomical_names(case):
    _, _, camera, view, truth, _ = case
    first, second = {"AP": ("lateral", "medial"), "lateral": ("anterior", "posterior")}[view]
    column = {c["side"]: np.mean(c["periosteum"], 0)[0] for c in truth["cortices"]}
    towards = {"AP": [1.0, 0, 0], "lateral": [0, 1.0, 0]}[view]
    sign = np.sign(camera.right @ towards)
    assert sign * (column[first] - column[second]) > 10


def test_an_incomplete_fracture_line_is_lateral_only(case):
    femur, fracture, _, _, _, _ = case
    fracture = fracture._replace(reach=0.3 * femur.shaft_radius)
    x, y = (float(v) for v in axis_at(femur, fracture.height))
    camera = aim(np.array([x, y, fracture.height]), view="AP", laterality="L")
    truth = describe_image(femur, fracture, camera, "AP", SHAPE, SPACING)
    columns = np.array(truth["fracture_lines"][0])[:, 0] - 0.5 * (SHAPE[1] - 1)
    assert columns.min() * SPACING > 0.25 * femur.shaft_radius
    assert columns.max() * SPACING == pytest.approx(1.12 * femur.shaft_radius, rel=0.12)


def test_description_of_a_patient_matches_the_drawn_values():
    rng = np.random.default_rng(5)
    femur = draw_femur(rng, "AFF")
    fracture = draw_fracture(rng, femur, "AFF")
    hardware = draw_hardware(rng, femur, fracture)._replace(implant=2, cast=5.0, splint=1.0)
    truth = describe_patient(femur, fracture, hardware, "AFF")
    assert (truth["label"], truth["implant"], truth["plaster"]) == ("AFF", "plate", "splint")
    assert truth["complete"] == (fracture.reach == EVERYWHERE)
    assert truth["below_lesser_trochanter_mm"] == pytest.approx(
        float(femur.lesser_trochanter) - fracture.height, abs=0.06
    )
    turn = np.deg2rad(truth["rotation_deg"])
    assert np.trace(fracture.rotation[1]) == pytest.approx(1 + 2 * np.cos(turn), abs=1e-3)
    for name in ("displacement_mm", "bow_radius_mm", "lateral_cortex_mm", "angle_deg"):
        assert truth[name] >= 0
