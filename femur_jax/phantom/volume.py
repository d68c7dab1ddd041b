"""What a point of space is made of: bone, marrow, fat or muscle of a broken femur in its thigh."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from femur_jax.phantom.anatomy import (
    Femur,
    Number,
    Points,
    Scalars,
    cortical_thickness,
    diaphysis,
    femur_distance,
    length,
    neighbour_distance,
    thigh_distance,
)
from femur_jax.phantom.fracture import (
    FRAGMENTS,
    Fracture,
    beak_height,
    flare_height,
    fragment_distance,
    relative_to_fracture,
)


def coverage(distance: Scalars, width: Number) -> Scalars:
    """How much of a sample `width` mm wide lies inside, 0 to 1: an anti-aliased indicator."""
    return jnp.clip(0.5 - distance / width, 0.0, 1.0)


def bone_content(
    femur: Femur, fracture: Fracture, p: Points, width: Number
) -> tuple[Scalars, Scalars, Scalars]:
    """Volume fractions of mineralised bone, of marrow, and of everything within the periosteum.

    Three programs rather than one: fused into a single one, the compiler repeats what they share
    for every use and takes five times longer.

    Args:
        femur: The patient.
        fracture: How the femur is broken.
        p: Points in mm.
        width: Extent of a sample in mm.
    """
    owner = owning_fragment(femur, fracture, p)
    place = _before_fracture(fracture, owner, p)
    return _fractions(femur, fracture, owner, place, periosteum(femur, fracture, place), width)


@jax.jit
def owning_fragment(femur: Femur, fracture: Fracture, p: Points) -> Int[Array, "*points"]:
    """Number of the fragment that a point belongs to, inside bone or not."""
    owner = jnp.zeros(p[0].shape, jnp.int32)
    least = jnp.inf
    for k in range(FRAGMENTS):
        q = _undo_motion(fracture, k, p)
        local = relative_to_fracture(femur, fracture, q)
        region = fragment_distance(femur, fracture, k, local)
        # Shortened fragments overlap as regions of space; there the bone of the shaft decides.
        claim = jnp.maximum(region, length(local[0], local[1]) - femur.shaft_radius)
        owner = jnp.where(claim < least, k, owner)
        least = jnp.minimum(claim, least)
    return owner


@jax.jit
def _before_fracture(fracture: Fracture, owner: Int[Array, "*points"], p: Points) -> Points:
    """Where points lay in the intact bone."""
    x, y, z = _undo_motion(fracture, 0, p)
    for k in range(1, FRAGMENTS):
        u, v, w = _undo_motion(fracture, k, p)
        x, y, z = (
            jnp.where(owner == k, u, x),
            jnp.where(owner == k, v, y),
            jnp.where(owner == k, w, z),
        )
    return x, y, z


@jax.jit
def periosteum(femur: Femur, fracture: Fracture, place: Points) -> Scalars:
    """Distance to the outer surface of the bones before they broke, in mm."""
    return jnp.minimum(
        femur_distance(femur, place) - beak_height(femur, fracture, place),
        neighbour_distance(femur, place),
    )


@jax.jit
def _fractions(
    femur: Femur,
    fracture: Fracture,
    owner: Int[Array, "*points"],
    place: Points,
    outer: Scalars,
    width: Number,
) -> tuple[Scalars, Scalars, Scalars]:
    """Mineral, marrow and their sum from the distance to the periosteum."""
    local = relative_to_fracture(femur, fracture, place)
    region = fragment_distance(femur, fracture, 0, local)
    for k in range(1, FRAGMENTS):
        region = jnp.where(owner == k, fragment_distance(femur, fracture, k, local), region)
    # The cortex is thicker by the beak, outwards, and by the flare, inwards.
    thickness = cortical_thickness(femur, place) + beak_height(femur, fracture, place)
    thickness += flare_height(femur, fracture, place)
    fragment = coverage(region, width)
    whole = coverage(outer, width) * fragment
    cavity = coverage(outer + thickness, width) * fragment
    trabecular = femur.trabecular * (1.0 - diaphysis(femur, place[2]))
    mineral = whole - (1.0 - trabecular) * cavity
    return mineral, whole - mineral, whole


def _undo_motion(fracture: Fracture, k: int, p: Points) -> Points:
    """Moves points back with fragment k; a rotation's inverse is its transpose."""
    x, y, z = (a - fracture.translation[k, i] for i, a in enumerate(p))
    r, z = fracture.rotation[k], z - fracture.height
    return (
        r[0, 0] * x + r[1, 0] * y + r[2, 0] * z,
        r[0, 1] * x + r[1, 1] * y + r[2, 1] * z,
        r[0, 2] * x + r[1, 2] * y + r[2, 2] * z + fracture.height,
    )


@jax.jit
def soft_content(femur: Femur, p: Points, width: Number) -> tuple[Scalars, Scalars]:
    """Volume fractions of the thigh's fat and of all within the fascia, bones included."""
    skin = thigh_distance(femur, p)
    # Samples lie far apart here; a wider ramp keeps them from showing as bands.
    fascia = coverage(skin + femur.fat, 2.0 * width)
    return coverage(skin, 2.0 * width) - fascia, fascia
