"""Ground truth of a simulated radiograph: the fracture, the bone, and their positions.

Positions are pixel coordinates [column, row]; the centre of the first pixel is [0, 0].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from femur_jax.phantom.anatomy import (
    Femur,
    Number,
    Points,
    axis_at,
    cortical_thickness,
    femur_distance,
)
from femur_jax.phantom.camera import Camera
from femur_jax.phantom.fracture import (
    TYPES,
    Fracture,
    ao_code,
    beak_height,
    flare_height,
    surface_height,
)
from femur_jax.phantom.hardware import IMPLANTS, Hardware

LEVELS = 48
"""Number of points of a polyline."""

START = 70.0
"""Distance from the axis at which the search for a surface starts, mm."""

SIDES = {"AP": ("lateral", "medial"), "lateral": ("anterior", "posterior")}


def describe_patient(
    femur: Femur, fracture: Fracture, hardware: Hardware, label: str
) -> dict[str, Any]:
    """Ground truth of a patient, equal for all images; lengths in mm, angles in degrees."""
    z = 0.5 * femur.length
    x, y = (float(v) for v in axis_at(femur, z))
    middle = as_points(np.array([[x + femur.shaft_radius, y, z]]))
    return {
        "label": label,
        "type": TYPES[int(fracture.type)],
        "ao": ao_code(femur, fracture),
        "complete": bool(fracture.reach < -START),
        "angle_deg": round(float(fracture.angle_deg), 2),
        "below_lesser_trochanter_mm": round(float(femur.lesser_trochanter - fracture.height), 1),
        "displacement_mm": round(float(np.linalg.norm(fracture.translation[1])), 2),
        "rotation_deg": round(_angle_deg(np.asarray(fracture.rotation[1])), 2),
        "fragments": 2 + int(np.sum(fracture.wedge_length > 0)),
        "beak_mm": round(float(fracture.beak), 2),
        "flare_mm": round(float(fracture.flare), 2),
        "spike_mm": round(abs(float(fracture.spike)), 2),
        "bow_radius_mm": round(float(femur.bow_radius), 1),
        "lateral_bow_mm": round(float(femur.lateral_bow), 2),
        "lateral_cortex_mm": round(float(cortical_thickness(femur, middle)[0]), 2),
        "implant": IMPLANTS[hardware.implant],
        "plaster": ("cast", "splint")[int(hardware.splint)] if hardware.cast else "none",
    }


def describe_image(
    femur: Femur,
    fracture: Fracture,
    camera: Camera,
    view: str,
    shape: tuple[int, int],
    spacing: float,
) -> dict[str, Any]:
    """Positions of the fracture and of the shaft's cortices in an image.

    Args:
        femur: The patient's femur.
        fracture: The patient's fracture.
        camera: Geometry of the beam.
        view: Direction of the beam, 'AP' or 'lateral'.
        shape: Height and width in pixels.
        spacing: Side of a detector pixel, mm.

    Returns:
        `fracture_lines`, one polyline around the shaft for each of the two main fragments;
        `fracture_box` [left, top, right, bottom] and `fracture_centre` of both lines; `cortices`,
        a list of polylines along the `periosteum` and the `endosteum` with their `side` and
        `fragment`. Only points within the image are listed.
    """

    # With equal types for all patients, the functions are compiled only once.
    femur, fracture = jax.tree.map(jnp.float32, (femur, fracture))

    def visible(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 2"]:
        pixels = to_pixels(camera, points, shape, spacing)
        inside = (pixels >= -0.5).all(1) & (pixels < np.array(shape[::-1]) - 0.5).all(1)
        return pixels[inside]

    edge = fracture_edge(femur, fracture)
    lines = [visible(move(fracture, k, edge)) for k in (0, 1)]
    every = np.concatenate(lines)
    box = [*every.min(0), *every.max(0)] if len(every) else []
    cortices = []
    for side, direction in zip(SIDES[view], (1.0, -1.0), strict=True):
        for fragment in (0, 1):
            outer, inner = cortex(femur, fracture, camera, view, direction, fragment)
            outlines = [visible(move(fracture, fragment, surface)) for surface in (outer, inner)]
            if min(len(outline) for outline in outlines) > 1:
                names = ("periosteum", "endosteum")
                drawn = {n: _rounded(o) for n, o in zip(names, outlines, strict=True)}
                cortices.append({"side": side, "fragment": fragment, **drawn})
    return {
        "fracture_lines": [_rounded(line) for line in lines],
        "fracture_box": np.round(box, 2).tolist(),
        "fracture_centre": np.round(every.mean(0), 2).tolist() if len(every) else [],
        "cortices": cortices,
    }


def fracture_edge(femur: Femur, fracture: Fracture) -> Float[np.ndarray, "n 3"]:
    """Points in mm of the fracture's surface on the periosteum, before the fragments moved."""
    azimuth = np.linspace(-np.pi, np.pi, LEVELS)
    on_surface = _march(femur, fracture, np.cos(azimuth), np.sin(azimuth), np.zeros(LEVELS), 1.0)
    points = np.stack(on_surface, -1).astype(float)
    from_axis = points[:, 0] - np.asarray(axis_at(femur, jnp.asarray(points[:, 2]))[0])
    return points[from_axis > float(fracture.reach)]


def cortex(
    femur: Femur,
    fracture: Fracture,
    camera: Camera,
    view: str,
    direction: float,
    fragment: int,
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Outer and inner surface of the shaft's cortex on one side, before the fragment moved.

    Args:
        femur: The patient's femur.
        fracture: The patient's fracture.
        camera: Geometry of the beam; the cortices are traced along the image's rows.
        view: Direction of the beam, 'AP' or 'lateral'.
        direction: 1.0 for the lateral or anterior side, -1.0 for the other.
        fragment: 0 for the proximal fragment, 1 for the distal one.

    Returns:
        Points in mm, from the hip to the knee.
    """
    across = camera.right[:2] * direction * np.sign(camera.right[0 if view == "AP" else 1])
    across = across / np.linalg.norm(across)
    z = np.linspace(float(femur.lesser_trochanter) - 12.0, 0.26 * femur.length, LEVELS)
    u, v = np.full(LEVELS, across[0]), np.full(LEVELS, across[1])
    outer = _march(femur, fracture, u, v, z - fracture.height, 0.0)
    beak = np.asarray(beak_height(femur, fracture, outer))
    thickness = np.asarray(cortical_thickness(femur, outer) + flare_height(femur, fracture, outer))
    outer = np.stack(outer, -1).astype(float)
    inward = np.append(across, 0.0)
    inner = outer - thickness[:, None] * inward
    outer = outer + beak[:, None] * inward
    x, y = (np.asarray(a) for a in axis_at(femur, jnp.asarray(z)))
    surface = surface_height(
        femur, fracture, jnp.asarray(outer[:, 0] - x), jnp.asarray(outer[:, 1] - y)
    )
    above = z - float(fracture.height) > np.asarray(surface)
    on_fragment = above if fragment == 0 else ~above
    return outer[on_fragment], inner[on_fragment]


@jax.jit
def _march(
    femur: Femur,
    fracture: Fracture,
    u: Float[Array, "n"],
    v: Float[Array, "n"],
    height: Float[Array, "n"],
    on_fracture: Number,
) -> Points:
    """Marches from outside towards the axis until it meets the bone's surface.

    Args:
        femur: The patient's femur.
        fracture: The patient's fracture.
        u, v: x and y of each march's direction from the axis.
        height: Level of each march above the fracture, mm.
        on_fracture: 1.0 to march on the fracture's surface, 0.0 to march at a constant level.
    """

    def at(distance):
        surface = surface_height(femur, fracture, distance * u, distance * v)
        z = fracture.height + height + on_fracture * surface
        x, y = axis_at(femur, z)
        return x + distance * u, y + distance * v, z

    # A step on a steep surface is longer in space. Half the distance is safe up to 60 degrees.
    def step(_, distance):
        return jnp.maximum(distance - 0.5 * femur_distance(femur, at(distance)), 0.0)

    return at(jax.lax.fori_loop(0, 40, step, jnp.full(u.shape, START)))


def move(
    fracture: Fracture, fragment: int, points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Moves points of the intact bone with a fragment."""
    centre = np.array([0.0, 0.0, float(fracture.height)])
    rotation, translation = (
        np.asarray(motions[fragment], float)
        for motions in (fracture.rotation, fracture.translation)
    )
    return (points - centre) @ rotation.T + centre + translation


def to_pixels(
    camera: Camera, points: Float[np.ndarray, "n 3"], shape: tuple[int, int], spacing: float
) -> Float[np.ndarray, "n 2"]:
    """Columns and rows of points in the image."""
    from_middle = np.array([camera.pixel(point) for point in points]).reshape(-1, 2) / spacing
    return from_middle + 0.5 * (np.array(shape[::-1]) - 1)


def as_points(array: Float[np.ndarray, "n 3"]) -> Points:
    """Converts an array of points to the form that `anatomy` uses."""
    x, y, z = jnp.asarray(array, jnp.float32).T
    return x, y, z


def _rounded(line: Float[np.ndarray, "n 2"]) -> list[list[float]]:
    return np.round(line, 2).tolist()


def _angle_deg(rotation: Float[np.ndarray, "3 3"]) -> float:
    return float(np.rad2deg(np.arccos(np.clip(0.5 * (np.trace(rotation) - 1.0), -1.0, 1.0))))
