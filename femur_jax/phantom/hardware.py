"""Implants, casts and splints in and around a thigh."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from femur_jax.phantom.anatomy import (
    Femur,
    Points,
    Scalars,
    axis_at,
    capsule,
    elliptic_tube,
    head_centre,
    length,
    shaft_distance,
    sphere,
    thigh_distance,
)
from femur_jax.phantom.fracture import Fracture
from femur_jax.phantom.scene import Implant

IMPLANTS = ("none", "nail", "plate", "stem")

ABSENT = 1e3
"""Distance in mm to an absent body."""

SCREW_PITCH = 18.0
"""Distance between a plate's screws, mm."""


class Hardware(NamedTuple):
    """Metal and plaster; lengths in mm.

    Attributes:
        implant: Index into IMPLANTS.
        top: Height z of the implant's upper end.
        bottom: Height z of the implant's lower end.
        radius: Radius of the nail or of the stem's tip.
        steel: 1 for steel and 0 for titanium.
        cast: Thickness of the plaster around the thigh, 0 for none.
        cast_top: Height z of the plaster's upper end.
        splint: 1 if the plaster covers only the back of the thigh, else 0.
    """

    implant: int
    top: float
    bottom: float
    radius: float
    steel: float
    cast: float
    cast_top: float
    splint: float


def draw_hardware(rng: np.random.Generator, femur: Femur, fracture: Fracture) -> Hardware:
    """Draws a patient's implant and cast: mostly none, and equally often in both classes.

    Nails reach from the greater trochanter to the condyles, plates bridge the fracture, and stems
    of hip prostheses end in the upper shaft.
    """
    implant = int(rng.choice(len(IMPLANTS), p=[0.94, 0.02, 0.02, 0.02]))
    half = rng.uniform(75.0, 110.0)
    top, bottom = {
        "none": (0.0, 0.0),
        "nail": (float(femur.neck_height) + 24.0, rng.uniform(55.0, 90.0)),
        "plate": (fracture.height + half, fracture.height - half),
        "stem": (float(femur.neck_height), float(femur.lesser_trochanter) - rng.uniform(60, 110)),
    }[IMPLANTS[implant]]
    return Hardware(
        implant=implant,
        top=top,
        bottom=bottom,
        radius=rng.uniform(4.8, 6.2),
        steel=float(IMPLANTS[implant] == "plate"),
        cast=rng.uniform(4.0, 9.0) if rng.random() < 0.03 else 0.0,
        cast_top=fracture.height + rng.uniform(80.0, 140.0),
        splint=float(rng.random() < 0.5),
    )


def foreign_bodies(femur: Femur, hardware: Hardware) -> list[Implant]:
    """The implant and the cast of a patient as bodies for the ray tracer."""
    femur, hardware = jax.tree.map(np.float32, (femur, hardware))
    bodies = []
    if hardware.implant:
        material = "steel" if hardware.steel else "titanium"
        bodies.append(Implant(jax.tree_util.Partial(metal_distance, femur, hardware), material))
    if hardware.cast:
        bodies.append(Implant(jax.tree_util.Partial(cast_distance, femur, hardware), "plaster"))
    return bodies


def metal_distance(femur: Femur, hardware: Hardware, p: Points) -> Scalars:
    """Distance to the implant in mm."""
    bodies = (_nail(femur, hardware, p), _plate(femur, hardware, p), _stem(femur, hardware, p))
    distance = jnp.full_like(p[0], ABSENT)
    for index, body in enumerate(bodies, start=1):
        distance = jnp.where(hardware.implant == index, body, distance)
    return distance


def cast_distance(femur: Femur, hardware: Hardware, p: Points) -> Scalars:
    """Distance in mm to a cast around the thigh or a splint behind it."""
    padding = 3.0
    shell = jnp.abs(thigh_distance(femur, p) - padding - 0.5 * hardware.cast) - 0.5 * hardware.cast
    shell = jnp.maximum(shell, p[2] - hardware.cast_top)
    shell = jnp.maximum(shell, jnp.where(hardware.splint > 0.5, p[1], -ABSENT))
    return jnp.where(hardware.cast > 0.0, shell, ABSENT)


def _nail(femur: Femur, hardware: Hardware, p: Points) -> Scalars:
    """Distance to a bowed nail in the canal, a screw into the head and two near its lower end."""
    x, y, z = p
    axis_x, axis_y = axis_at(femur, z)
    tube = elliptic_tube(x - axis_x, y - axis_y, hardware.radius, hardware.radius)
    nail = jnp.maximum(tube, jnp.maximum(z - hardware.top, hardware.bottom - z))
    head, neck = head_centre(femur), femur.neck_height
    entry = (-0.35 * head[0], -0.35 * head[1], neck - 0.35 * (head[2] - neck))
    nail = jnp.minimum(nail, capsule(p, entry, head, 4.5))
    reach = femur.shaft_radius + 4.0
    for above in (12.0, 34.0):
        height = hardware.bottom + above
        x, y = axis_at(femur, height)
        nail = jnp.minimum(nail, capsule(p, (x - reach, y, height), (x + reach, y, height), 2.4))
    return nail


def _plate(femur: Femur, hardware: Hardware, p: Points) -> Scalars:
    """Distance to a plate moulded to the lateral side, with screws through both cortices."""
    x, y, z = p
    axis_x, axis_y = axis_at(femur, z)
    x, y = x - axis_x, y - axis_y
    middle, half = 0.5 * (hardware.top + hardware.bottom), 0.5 * (hardware.top - hardware.bottom)
    shell = jnp.abs(shaft_distance(femur, p) - 2.3) - 2.3
    plate = jnp.maximum(jnp.maximum(shell, jnp.abs(y) - 8.0), jnp.abs(z - middle) - half)
    plate = jnp.maximum(plate, -x)
    last = jnp.floor(half / SCREW_PITCH - 0.3)
    number = jnp.clip(jnp.round((z - middle) / SCREW_PITCH), -last, last)
    screw = length(y, z - middle - SCREW_PITCH * number) - 2.2
    screw = jnp.maximum(screw, jnp.abs(x - 2.0) - femur.shaft_radius - 3.0)
    # The hole over the fracture stays empty.
    return jnp.minimum(plate, jnp.where(number == 0.0, ABSENT, screw))


def _stem(femur: Femur, hardware: Hardware, p: Points) -> Scalars:
    """Distance to a hip prosthesis: cup, head, neck and a stem that tapers within the canal."""
    x, y, z = p
    axis_x, axis_y = axis_at(femur, z)
    head = head_centre(femur)
    share = jnp.clip((z - hardware.bottom) / (hardware.top - hardware.bottom), 0.0, 1.0)
    radius = hardware.radius * (0.75 + 0.75 * share)
    stem = elliptic_tube(x - axis_x, y - axis_y, 1.2 * radius, radius)
    stem = jnp.maximum(stem, jnp.maximum(z - hardware.top, hardware.bottom - z))
    neck = capsule(p, (0.0, 0.0, hardware.top - 4.0), head, 6.0)
    cup = jnp.abs(sphere(p, head, femur.head_radius)) - 2.0
    opening = 0.7 * (x - head[0]) - 0.7 * (z - head[2])
    ball = jnp.minimum(sphere(p, head, 15.0), jnp.maximum(cup, opening))
    return jnp.minimum(jnp.minimum(stem, neck), ball)
