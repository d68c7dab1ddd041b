"""A simulated patient's femur as an implicit volume.

Patient coordinates are in mm and are the same for left and right legs: x points laterally, y to
the front, z towards the hip. The origin lies on the shaft axis at the level of the knee joint.
Distances are negative inside a body. They are exact for spheres and capsules and accurate to first
order for other bodies, which is enough because only the surface matters. Dimensions are those of
adult femurs.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Scalars = Float[Array, "*points"]
Points = tuple[Scalars, Scalars, Scalars]  # separate x, y, z: the compiler vectorises over points
Number = int | float | Array
Vector = tuple[Number, Number, Number]

TINY = 1e-6  # keeps first-order distances finite and correct at a body's centre
SHELL = 1.3
"""Thickness of the cortex at both ends of the bone, mm."""

AWAY = 1e3
"""A value of `midline` in mm that keeps the other leg out of the radiograph."""

CONVERGENCE = 0.14
"""Slope of the femoral shaft relative to the midline: hips are further apart than knees."""


class Femur(NamedTuple):
    """Measurements of one femur and the thigh around it; lengths in mm, angles in rad.

    Attributes:
        length: Distance from the knee joint to the top of the head.
        head_radius: Radius of the femoral head.
        neck_length: Distance from the shaft axis to the centre of the head.
        neck_angle: Angle between neck and shaft.
        anteversion: Angle of the neck towards the front.
        shaft_radius: Outer radius where the shaft is narrowest.
        condyle_width: Width over both condyles.
        cortex: Thickness of the cortex at mid-shaft.
        lateral_cortex: Additional thickness of the lateral cortex of the shaft, as a share.
        bow_radius: Radius of the antecurvation of the shaft.
        lateral_bow: Deviation of mid-shaft to the lateral side.
        trabecular: Volume fraction of bone inside head, trochanters and condyles.
        thigh_radius: Radius of the thigh at mid-shaft.
        fat: Thickness of the fat under the skin.
        midline: Distance from the knee to the plane that mirrors the other leg.
    """

    length: float
    head_radius: float
    neck_length: float
    neck_angle: float
    anteversion: float
    shaft_radius: float
    condyle_width: float
    cortex: float
    lateral_cortex: float
    bow_radius: float
    lateral_bow: float
    trabecular: float
    thigh_radius: float
    fat: float
    midline: float

    @property
    def neck_height(self) -> Number:
        """Height z in mm at which the neck's axis leaves the shaft's axis."""
        return self.length - self.head_radius + self.neck_length * jnp.cos(self.neck_angle)

    @property
    def lesser_trochanter(self) -> Number:
        """Height of the lesser trochanter, z in mm."""
        return self.neck_height - 34.0


def draw_femur(rng: np.random.Generator, label: str) -> Femur:
    """Draws the femur of a patient.

    Femurs with an atypical fracture are more bowed, to the front and to the side, and their
    lateral cortex is thicker (Shane et al., J Bone Miner Res 2014;29:1-23). The mean radius of
    antecurvation is 943 mm. All measurements overlap between the classes.

    Args:
        rng: Source of randomness.
        label: The class, 'AFF' or 'NFF'.
    """
    atypical = label == "AFF"
    size = float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15))

    def normal(mean: int | float, deviation: int | float) -> float:
        return float(mean + deviation * np.clip(rng.normal(), -2.0, 2.0))

    return Femur(
        length=size * normal(432, 8),
        head_radius=size * normal(23.5, 0.8),
        neck_length=size * normal(55, 2.5),
        neck_angle=np.deg2rad(normal(127, 4)),
        anteversion=np.deg2rad(normal(12, 5)),
        shaft_radius=size * normal(13.7, 0.6),
        condyle_width=size * normal(80, 2.5),
        cortex=size * normal(6.6 if atypical else 6.2, 0.8),
        lateral_cortex=normal(0.2, 0.1) if atypical else normal(0.06, 0.07),
        bow_radius=normal(840, 95) if atypical else normal(970, 100),
        lateral_bow=normal(6, 3.5) if atypical else normal(2.5, 2.5),
        trabecular=normal(0.24, 0.04),
        thigh_radius=size * normal(72, 8),
        fat=normal(13, 4),
        midline=AWAY if rng.random() < 0.4 else rng.uniform(60, 110),
    )


def length(*components: Scalars) -> Scalars:
    """Euclidean norm of a vector with the given components."""
    return jnp.sqrt(sum(c * c for c in components))


def rise(x: Scalars, width: Number) -> Scalars:
    """A smooth step from 0 to 1, as steep at x = 0 as 1 / (1 + exp(-x / width))."""
    t = jnp.clip(0.5 + x / (6.0 * width), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def smooth_union(a: Scalars, b: Scalars, width: float) -> Scalars:
    """Union of two bodies with a fillet `width` mm wide (quadratic polynomial blend)."""
    overlap = jnp.maximum(width - jnp.abs(a - b), 0.0)
    return jnp.minimum(a, b) - overlap**2 / (4.0 * width)


def sphere(p: Points, centre: Vector, radius: Number) -> Scalars:
    """Distance to a sphere in mm."""
    return length(*(x - c for x, c in zip(p, centre, strict=True))) - radius


def ellipsoid(p: Points, centre: Vector, radii: Vector) -> Scalars:
    """First-order distance to an ellipsoid, f (f - 1) / |p / radii^2| with f = |p / radii|, mm."""
    q = [(x - c) / r for x, c, r in zip(p, centre, radii, strict=True)]
    f = length(*q)
    gradient = length(*(x / r for x, r in zip(q, radii, strict=True)))
    return (f - 1.0) * (f + TINY) / (gradient + TINY / radii[0])


def capsule(p: Points, start: Vector, end: Vector, radius: Number) -> Scalars:
    """Distance to a cylinder with round ends in mm."""
    q = [x - a for x, a in zip(p, start, strict=True)]
    axis = [b - a for a, b in zip(start, end, strict=True)]
    along = sum(x * a for x, a in zip(q, axis, strict=True)) / sum(a * a for a in axis)
    along = jnp.clip(along, 0.0, 1.0)
    return length(*(x - along * a for x, a in zip(q, axis, strict=True))) - radius


def elliptic_tube(x: Scalars, y: Scalars, radius_x: Number, radius_y: Number) -> Scalars:
    """First-order distance in mm to a tube along z with half-axes `radius_x` and `radius_y`."""
    u, v = x / radius_x, y / radius_y
    f = length(u, v)
    return (f - 1.0) * (f + TINY) / (length(u / radius_x, v / radius_y) + TINY / radius_x)


def head_centre(femur: Femur) -> Vector:
    """Centre of the femoral head in mm."""
    reach = femur.neck_length * jnp.sin(femur.neck_angle)
    return (
        -reach * jnp.cos(femur.anteversion),
        reach * jnp.sin(femur.anteversion),
        femur.length - femur.head_radius,
    )


def axis_at(femur: Femur, z: Scalars | float) -> tuple[Scalars, Scalars]:
    """x and y of the shaft's axis in mm, which is bowed to the side and to the front."""
    half = 0.42 * femur.length
    height = jnp.clip((z - 0.45 * femur.length) / half, -1.1, 1.1)
    return (
        femur.lateral_bow * (1.0 - height**2),
        half**2 / (2.0 * femur.bow_radius) * (1.0 - height**2),
    )


def shaft_distance(femur: Femur, p: Points) -> Scalars:
    """Distance in mm to the shaft with its flares, from condyles to trochanters."""
    x, y, z = p
    axis_x, axis_y = axis_at(femur, z)
    r = femur.shaft_radius
    distal = rise(0.13 * femur.length - z, 13.0)
    proximal = rise(z - femur.neck_height + 18.0, 9.0)
    shaft = r + r * 0.12 * ((z - 0.5 * femur.length) / (0.3 * femur.length)) ** 2
    tube = elliptic_tube(
        x - axis_x,
        y - axis_y,
        shaft + (0.47 * femur.condyle_width - 1.5 * r) * distal + 5.0 * proximal,
        shaft + 6.0 * distal + 3.0 * proximal,
    )
    return jnp.maximum(tube, jnp.maximum(20.0 - z, z - femur.neck_height - 12.0))


def distal_distance(femur: Femur, p: Points) -> Scalars:
    """Distance to shaft and condyles in mm."""
    width = femur.condyle_width
    condyle = (0.24 * width, 31.0, 24.0)
    condyles = smooth_union(
        ellipsoid(p, (-0.27 * width, -12.0, 25.0), condyle),
        ellipsoid(p, (0.26 * width, -10.0, 27.0), condyle),
        6.0,
    )
    return smooth_union(shaft_distance(femur, p), condyles, 12.0)


def femur_distance(femur: Femur, p: Points) -> Scalars:
    """Distance to the outer surface of the whole femur in mm."""
    neck, head = femur.neck_height, head_centre(femur)
    greater_trochanter = ellipsoid(p, (11.0, -5.0, neck + 8.0), (15.0, 18.0, 27.0))
    lesser_trochanter = ellipsoid(
        p, (-0.85 * femur.shaft_radius, -9.0, femur.lesser_trochanter), (9.0, 9.0, 15.0)
    )
    distance = distal_distance(femur, p)
    distance = smooth_union(distance, greater_trochanter, 8.0)
    distance = smooth_union(distance, lesser_trochanter, 10.0)
    distance = smooth_union(
        distance, capsule(p, (0.0, 0.0, neck), head, 0.66 * femur.head_radius), 18.0
    )
    return smooth_union(distance, sphere(p, head, femur.head_radius), 6.0)


def neighbour_distance(femur: Femur, p: Points) -> Scalars:
    """Distance in mm to the neighbouring bones: pelvis, patella, tibia and the other leg."""
    q = other_side(femur, p)
    leg = jnp.minimum(distal_distance(femur, q), _knee_distance(femur, q))
    return jnp.minimum(jnp.minimum(_pelvis_distance(femur, p), _knee_distance(femur, p)), leg)


def other_side(femur: Femur, p: Points) -> Points:
    """Mirrors points at the midline, which is closer to the shaft at the knee than at the hip."""
    x, y, z = p
    twice = 2.0 * (x + femur.midline + CONVERGENCE * z) / (1.0 + CONVERGENCE**2)
    return x - twice, y, z - CONVERGENCE * twice


def _pelvis_distance(femur: Femur, p: Points) -> Scalars:
    """Distance to half a pelvis with its acetabulum in mm."""
    centre = head_centre(femur)
    hip = (p[0] - centre[0], p[1] - centre[1], p[2] - centre[2])
    cup = jnp.abs(length(*hip) - femur.head_radius - 9.0) - 4.5
    rim = 2.0 + 0.72 * hip[0] - 0.15 * hip[1] - 0.68 * hip[2]
    acetabulum = -smooth_union(-cup, -rim, 16.0)  # a rounded intersection
    ilium = ellipsoid(hip, (-26.0, -4.0, 74.0), (30.0, 13.0, 52.0))
    ischium = ellipsoid(hip, (-40.0, -22.0, -40.0), (15.0, 15.0, 34.0))
    pubis = capsule(hip, (-36.0, 5.0, 8.0), (-95.0, 26.0, -18.0), 8.0)
    pelvis = smooth_union(smooth_union(ilium, pubis, 20.0), ischium, 20.0)
    pelvis = smooth_union(pelvis, acetabulum, 14.0)
    # The joint space stays empty, however thick the pelvis is.
    return jnp.maximum(pelvis, femur.head_radius + 4.0 - length(*hip))


def _knee_distance(femur: Femur, p: Points) -> Scalars:
    """Distance to tibia and patella in mm."""
    x, y, z = p
    flare = rise(z + 34.0, 9.0)
    tibia = elliptic_tube(
        x, y + 8.0, 13.0 + (0.5 * femur.condyle_width - 13.0) * flare, 13.0 + 11.0 * flare
    )
    patella = ellipsoid(p, (0.0, 34.0, 42.0), (21.0, 9.0, 20.0))
    return jnp.minimum(jnp.maximum(tibia, z + 4.0), patella)


def diaphysis(femur: Femur, z: Scalars) -> Scalars:
    """A weight of 1 in the shaft, with thick cortex and a canal of marrow, and 0 at both ends."""
    distal = rise(z - 0.24 * femur.length, 0.05 * femur.length)
    return distal * rise(femur.lesser_trochanter + 8.0 - z, 14.0)


def cortical_thickness(femur: Femur, p: Points) -> Scalars:
    """Thickness of the cortex in mm, which tapers from mid-shaft to a shell at both ends."""
    x, _, z = p
    lateral = jnp.clip((x - axis_at(femur, z)[0]) / femur.shaft_radius, -0.3, 1.0)
    taper = 1.0 - 0.2 * jnp.minimum(((z - 0.52 * femur.length) / (0.25 * femur.length)) ** 2, 1.0)
    shaft = femur.cortex * taper * (1.0 + femur.lateral_cortex * lateral)
    return SHELL + (shaft - SHELL) * diaphysis(femur, z)


def thigh_distance(femur: Femur, p: Points) -> Scalars:
    """Distance to the skin of both thighs in mm."""
    return jnp.minimum(_one_thigh(femur, p), _one_thigh(femur, other_side(femur, p)))


def _one_thigh(femur: Femur, p: Points) -> Scalars:
    """Distance in mm to the skin of a tapering thigh that joins the trunk at the hip."""
    x, y, z = p
    axis_x, axis_y = axis_at(femur, z)
    hip = rise(z - femur.neck_height, 22.0)
    up = jnp.clip(z / (0.5 * femur.length), -0.3, 1.6)
    radius = femur.thigh_radius * (0.72 + 0.28 * up)
    return elliptic_tube(
        x - axis_x + 12.0 * up + 45.0 * hip, y - axis_y + 9.0 * up, radius + 55.0 * hip, radius
    )
