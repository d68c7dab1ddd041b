"""Atypical and normal fractures of a simulated femur.

A fracture is a surface across the shaft, up to two wedges next to it, and a rigid motion of each
fragment. Fragment 0 is proximal (fixed), 1 is distal, and 2 and 3 are wedges.

Sources: criteria of atypical fractures in Shane et al., J Bone Miner Res 2014;29:1-23 (ASBMR);
types and codes of femur fractures in the AO/OTA compendium, J Orthop Trauma 2018;32:S33-S44.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.transform import Rotation

from femur_jax.phantom.anatomy import (
    CONVERGENCE,
    Femur,
    Points,
    Scalars,
    axis_at,
)

FRAGMENTS = 4

TYPES = ("transverse", "oblique", "spiral", "wedge", "comminuted")

NORMAL_TYPES = {
    "shaft": (0.14, 0.22, 0.34, 0.18, 0.12),
    "pertrochanteric": (0.0, 0.6, 0.0, 0.0, 0.4),
    "supracondylar": (0.2, 0.35, 0.1, 0.1, 0.25),
}
"""Shares of the types among normal fractures at each site."""

FAR = 1e3
"""Distance in mm to an empty region; its negative is the distance to a region without bounds."""

EVERYWHERE = -FAR
"""The `reach` of a complete fracture, mm."""


class Fracture(NamedTuple):
    """One fracture; lengths in mm, angles in rad unless named otherwise.

    Attributes:
        type: Index into TYPES.
        height: Level z on the shaft.
        angle_deg: Inclination of the fracture to the shaft's cross-section at its origin, degrees.
        slope: Rise of the surface along x (lateral) and y (front).
        pitch: Rise of a spiral over one turn, 0 for a plane.
        seam: Azimuth, as a share of a turn, of the split along the shaft that closes the spiral.
        medial_slope: Additional rise on the medial side.
        spike: Height of a spike on the medial cortex.
        roughness: Amplitude of the surface's irregularity.
        gap: Width of the fracture line.
        reach: Medial end of the fracture line, as x relative to the shaft's axis.
        beak: Height of the lateral periosteal beak, 0 for none.
        flare: Height of the lateral endosteal thickening, 0 for none.
        beak_width: Half the extent of beak and flare along the shaft.
        wedge_length: Length of each of the two wedges along the shaft, 0 for none.
        wedge_azimuth: Side of the shaft from which each wedge is broken.
        wedge_height: Level of each wedge above the fracture.
        rotation: Rotation of each fragment about the fracture's centre.
        translation: Translation of each fragment.
    """

    type: int
    height: float
    angle_deg: float
    slope: Float[np.ndarray | Array, "2"]
    pitch: float
    seam: float
    medial_slope: float
    spike: float
    roughness: float
    gap: float
    reach: float
    beak: float
    flare: float
    beak_width: float
    wedge_length: Float[np.ndarray | Array, "2"]
    wedge_azimuth: Float[np.ndarray | Array, "2"]
    wedge_height: Float[np.ndarray | Array, "2"]
    rotation: Float[np.ndarray | Array, "4 3 3"]
    translation: Float[np.ndarray | Array, "4 3"]


def draw_fracture(rng: np.random.Generator, femur: Femur, label: str) -> Fracture:
    """Draws a fracture of the femur.

    Args:
        rng: Source of randomness.
        femur: The bone to break.
        label: The class, 'AFF' or 'NFF'.
    """
    return _draw_atypical(rng, femur) if label == "AFF" else _draw_normal(rng, femur)


def _draw_atypical(rng: np.random.Generator, femur: Femur) -> Fracture:
    """Draws a transverse fracture that starts at the lateral cortex, mostly with a beak.

    It is complete or limited to that cortex. The angle is 4.8 +- 4.2 degrees within 0.3 to 18; 25
    of 129 fractures lie within 80 mm below the lesser trochanter. One in ten shows neither
    periosteal nor endosteal thickening: four of the five major features are enough.
    """
    subtrochanteric = rng.random() < 25 / 129
    mean, deviation, least, most = (40, 15, 10, 78) if subtrochanteric else (135, 30, 82, 250)
    below = np.clip(rng.normal(mean, deviation), least, most)
    angle = float(np.clip(rng.normal(4.8, 4.2), 0.3, 18.0))
    complete = rng.random() < 0.7
    displaced = complete and rng.random() < 0.6
    along = rng.choice([-1.0, 1.0])
    motion = _displacement(rng, femur, 1.0 if displaced else 0.1) if complete else np.zeros(6)
    medial_slope = rng.uniform(0.0, 0.5) if complete else 0.0
    thickened = rng.choice(4, p=[0.1, 0.4, 0.13, 0.37])  # nowhere, outside, inside, both
    return Fracture(
        type=TYPES.index("oblique" if medial_slope > 0.25 else "transverse"),
        height=_on_shaft(femur, float(below)),
        angle_deg=angle,
        slope=np.array([along * np.tan(np.deg2rad(angle)), rng.normal(0, 0.05)]),
        pitch=0.0,
        seam=0.0,
        medial_slope=along * medial_slope,
        spike=along * rng.uniform(5, 14) if complete and rng.random() < 0.4 else 0.0,
        roughness=0.2,
        gap=rng.uniform(1.5, 3.0),
        reach=EVERYWHERE if complete else rng.uniform(-0.1, 0.6) * femur.shaft_radius,
        beak=(thickened % 2) * rng.uniform(1.5, 5.0),
        flare=(thickened // 2) * rng.uniform(1.0, 3.0),
        beak_width=rng.uniform(9.0, 16.0),
        wedge_length=np.zeros(2),
        wedge_azimuth=np.zeros(2),
        wedge_height=np.zeros(2),
        **_rigid_motions(rng, motion, np.zeros(2)),
    )


def _draw_normal(rng: np.random.Generator, femur: Femur) -> Fracture:
    """Draws a spiral, oblique, wedge, comminuted or transverse fracture of the shaft or near it.

    Most are steeper than 30 degrees. A few transverse ones have a slight periosteal reaction.
    """
    site = str(rng.choice(list(NORMAL_TYPES), p=[0.76, 0.09, 0.15]))
    kind = str(rng.choice(TYPES, p=NORMAL_TYPES[site]))
    transverse, spiral = kind == "transverse", kind == "spiral"
    angle = float(rng.uniform(3, 28) if transverse else rng.uniform(32, 58))
    tangent = np.tan(np.deg2rad(angle))
    direction, azimuth = rng.choice([-1.0, 1.0]), rng.uniform(-0.9, 0.9)
    if site == "pertrochanteric":  # from the greater trochanter down to the lesser one
        height = float(femur.lesser_trochanter) + rng.uniform(4, 14)
        direction, azimuth = 1.0, rng.uniform(-0.4, 0.4)
    elif site == "supracondylar":
        height = rng.uniform(0.16, 0.26) * femur.length
    else:
        subtrochanteric = rng.random() < 25 / 129
        below = np.clip(rng.normal(40, 15), 10, 78) if subtrochanteric else rng.normal(140, 35)
        height = _on_shaft(femur, float(below))
    rise = direction * tangent
    wedges = {"wedge": 1, "comminuted": 2}.get(kind, 0)
    present = np.arange(2) < wedges
    side = rng.uniform(-np.pi, np.pi)
    wedge_azimuth = np.array([side, side + rng.uniform(2.0, 4.2)])
    severity = 0.25 if rng.random() < 0.25 else 1.0
    long = (35, 75) if site == "shaft" else (25, 45)
    return Fracture(
        type=TYPES.index(kind),
        height=height,
        angle_deg=angle,
        slope=np.zeros(2) if spiral else rise * np.array([np.cos(azimuth), np.sin(azimuth)]),
        pitch=2.0 * np.pi * femur.shaft_radius * rise if spiral else 0.0,
        seam=rng.uniform(-0.5, 0.5),
        medial_slope=0.0,
        spike=0.0,
        roughness=rng.uniform(0.4, 1.0),
        gap=rng.uniform(1.5, 3.5),
        reach=EVERYWHERE,
        beak=rng.uniform(0.5, 1.5) if transverse and rng.random() < 0.2 else 0.0,
        flare=0.0,
        beak_width=rng.uniform(9.0, 16.0),
        wedge_length=present * rng.uniform(*long, 2),
        wedge_azimuth=wedge_azimuth,
        wedge_height=present * rng.normal(0, 10, 2),
        **_rigid_motions(rng, _displacement(rng, femur, severity), wedge_azimuth),
    )


def reduce(fracture: Fracture, remaining: float) -> Fracture:
    """Reduces a fracture to a share `remaining` of each fragment's displacement."""
    turns = Rotation.from_matrix(fracture.rotation).as_rotvec() * remaining
    return fracture._replace(
        rotation=Rotation.from_rotvec(turns).as_matrix().astype(np.float32),
        translation=fracture.translation * np.float32(remaining),
    )


def ao_code(femur: Femur, fracture: Fracture) -> str:
    """The AO/OTA code of 2018: bone, segment, type, group and, in the shaft, the third."""
    kind = TYPES[int(fracture.type)]
    below = float(femur.lesser_trochanter) - fracture.height
    if below < 0.0:
        return "31A2" if kind == "comminuted" else "31A1"
    if fracture.height < 0.265 * femur.length:
        return "33A3" if kind in ("wedge", "comminuted") else "33A2"
    group = {"spiral": "A1", "oblique": "A2", "transverse": "A3", "wedge": "B2", "comminuted": "B3"}
    third = int(3.0 * below / (float(femur.lesser_trochanter) - 0.265 * femur.length))
    return f"32{group[kind]}({'abc'[min(third, 2)]})"


def _on_shaft(femur: Femur, below: float) -> float:
    """z of a level `below` mm under the lesser trochanter, kept above the supracondylar flare."""
    top = float(femur.lesser_trochanter)
    return float(np.clip(top - below, 0.27 * femur.length, top - 8.0))


def _displacement(rng: np.random.Generator, femur: Femur, severity: float) -> np.ndarray:
    """Draws the motion of the distal fragment: translation in mm, then rotation vector in rad."""
    radius = femur.shaft_radius
    shift = rng.normal(0, 0.55 * radius, 2)
    shortening = rng.uniform(-3, 9) + (8.0 if np.hypot(*shift) > radius else 0.0)
    # The muscles' pull favours varus and a backward tilt of the distal fragment.
    tilt = np.deg2rad(np.clip(rng.normal([-4, 5, 0], [6, 6, 9]), -16, 16))
    return severity * np.array([*shift, shortening, *tilt])


def _rigid_motions(
    rng: np.random.Generator, distal: np.ndarray, wedge_azimuth: np.ndarray
) -> dict[str, np.ndarray]:
    """Draws all fragments' motions; wedges move half as far as the distal one and outwards."""
    wedges = []
    for azimuth in wedge_azimuth:
        outward = rng.uniform(3, 10) * np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        turn = np.deg2rad(rng.normal(0, 9, 3))
        wedges.append(0.5 * distal + np.concatenate([outward, turn]))
    motions = np.stack([np.zeros(6), distal, *wedges]).astype(np.float32)
    return {
        "rotation": Rotation.from_rotvec(motions[:, 3:]).as_matrix().astype(np.float32),
        "translation": motions[:, :3],
    }


def fragment_distance(femur: Femur, fracture: Fracture, k: int, local: Points) -> Scalars:
    """Signed distance in mm to the region of space that fragment k is cut from.

    Args:
        femur: The patient's femur.
        fracture: The patient's fracture.
        k: Number of the fragment.
        local: Points before the fragment moved, relative to the shaft's axis and the fracture.
    """
    x, y, z = local
    r = femur.shaft_radius
    # Beyond the end of the fracture line the fragments overlap, so that the bone is intact.
    half_gap = 0.5 * jnp.clip(x - fracture.reach, -20.0, fracture.gap)
    # A wedge is a prism whose length grows from zero on the far side of the shaft.
    wedges = []
    for i in range(2):
        azimuth, long = fracture.wedge_azimuth[i], fracture.wedge_length[i]
        side = jnp.clip((x * jnp.cos(azimuth) + y * jnp.sin(azimuth)) / r, -1.0, 1.2)
        half = jnp.where(long > 0.0, 0.25 * long * (1.0 + side), -FAR)
        wedges.append(jnp.abs(z - fracture.wedge_height[i]) - half)
    if k == 2:
        region = half_gap + wedges[0]
    elif k == 3:
        region = half_gap + jnp.maximum(wedges[1], -wedges[0])
    else:
        above = z - surface_height(femur, fracture, x, y)
        side = above * jnp.cos(jnp.deg2rad(fracture.angle_deg)) * (-1.0 if k == 0 else 1.0)
        region = jnp.maximum(half_gap + side, -jnp.minimum(wedges[0], wedges[1]))
    # The other leg is intact and moves with the proximal fragment, which is fixed.
    other = x + femur.midline + CONVERGENCE * (z + fracture.height) < 0.0
    return jnp.where(other, -FAR if k == 0 else FAR, region)


def surface_height(femur: Femur, fracture: Fracture, x: Scalars, y: Scalars) -> Scalars:
    """z of the fracture's surface relative to the fracture, for x and y relative to the axis."""
    # The diamond angle as a share of a turn is within 0.012 of atan2 and 20 times faster.
    turn = jnp.sign(y) * 0.25 * (1.0 - x / (jnp.abs(x) + jnp.abs(y) + 1e-6)) - fracture.seam
    medial = jnp.maximum(-x, 0.0)
    return (
        x * fracture.slope[0]
        + y * fracture.slope[1]
        + fracture.pitch * (turn - jnp.round(turn))
        + fracture.medial_slope * medial
        + fracture.spike * jnp.clip(2.0 * medial / femur.shaft_radius - 1.0, 0.0, 1.0)
        + fracture.roughness * (zigzag(0.21 * x + 0.13 * y) + zigzag(0.31 * y - 0.11 * x))
    )


def zigzag(x: Scalars) -> Scalars:
    """Triangular wave of period 1 between -1 and 1."""
    return 4.0 * jnp.abs(x - jnp.round(x)) - 1.0


def relative_to_fracture(femur: Femur, fracture: Fracture, p: Points) -> Points:
    """Coordinates relative to the shaft's axis and the level of the fracture."""
    x, y = axis_at(femur, p[2])
    return p[0] - x, p[1] - y, p[2] - fracture.height


def beak_height(femur: Femur, fracture: Fracture, p: Points) -> Scalars:
    """Height in mm of the periosteal beak, a ridge of the lateral cortex at the fracture line."""
    return fracture.beak * _ridge(femur, fracture, p)


def flare_height(femur: Femur, fracture: Fracture, p: Points) -> Scalars:
    """Height in mm of the endosteal thickening opposite the beak."""
    return fracture.flare * _ridge(femur, fracture, p)


def _ridge(femur: Femur, fracture: Fracture, p: Points) -> Scalars:
    """A weight of 1 where the fracture line meets the lateral cortex, falling to 0 around it."""
    x, _, z = relative_to_fracture(femur, fracture, p)
    lateral = jnp.clip((x / femur.shaft_radius - 0.2) / 0.8, 0.0, 1.0)
    along = jnp.abs(z - x * fracture.slope[0])
    return lateral * jnp.maximum(1.0 - along / fracture.beak_width, 0.0)
