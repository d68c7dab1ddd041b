"""Paths of rays through bone, marrow and soft tissue of a broken femur in its thigh.

A ray is sampled at nodes; between two nodes a signed distance is taken as linear, and the share of
the interval where it is negative is integrated exactly. Surfaces stay sharp however far apart the
nodes are; what remains is the curvature of surfaces between nodes. All lengths are in mm.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from femur_jax.phantom.anatomy import (
    TINY,
    Femur,
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

Nodes = Float[Array, "nodes rays"]
Interval = tuple[Scalars, Scalars]


def inside(start: Scalars, end: Scalars) -> Interval:
    """Part of an interval, from 0 to 1, in which a linear distance is negative.

    Args:
        start: Signed distance at the interval's first end.
        end: At its other end.

    Returns:
        Where the part begins and ends; they are equal if it is empty.
    """
    cross = start / jnp.where(start == end, 1.0, start - end)
    first = jnp.where(start < 0.0, 0.0, jnp.where(end < 0.0, cross, 1.0))
    last = jnp.where(end < 0.0, 1.0, jnp.where(start < 0.0, cross, first))
    return first, last


def overlap(a: Interval, b: Interval) -> Scalars:
    """Length of the intersection of two intervals."""
    return jnp.maximum(jnp.minimum(a[1], b[1]) - jnp.maximum(a[0], b[0]), 0.0)


@jax.jit
def along_rays(
    source: Float[Array, "3"],
    directions: Float[Array, "3 rays"],
    near: Float[Array, "rays"],
    far: Float[Array, "rays"],
    nodes: Float[Array, "nodes"],
) -> Points:
    """Points of rays, shape [nodes, rays] each, between two distances from the source.

    Args:
        source: Origin of all rays.
        directions: Unit vectors.
        near: Where sampling starts.
        far: Where it ends.
        nodes: Places between, 0 to 1.
    """
    t = near + nodes[:, None] * (far - near)
    x, y, z = (source[i] + t * directions[i] for i in range(3))
    return x, y, z


def bone_path(
    femur: Femur, fracture: Fracture, p: Points
) -> tuple[Float[Array, "rays"], Float[Array, "rays"]]:
    """Shares of rays in mineralised bone and in all within the periosteum, marrow included.

    Several programs rather than one: fused into a single one, the compiler repeats what they
    share for every use and takes five times longer.

    Args:
        femur: The patient.
        fracture: How the femur is broken.
        p: Points along rays, equally far apart, shape [nodes, rays].
    """
    owner, regions, claims = owning_fragment(femur, fracture, p)
    place = _before_fracture(fracture, owner, p)
    outer = periosteum(femur, fracture, place)
    inner, trabecular = _endosteum(femur, fracture, place, outer)
    return _integrate_bone(owner, regions, claims, outer, inner, trabecular)


def bone_distance(femur: Femur, fracture: Fracture, p: Points) -> Scalars:
    """Distance to the bones where they lie now, fracture lines not cut out, in mm."""
    owner, _, _ = owning_fragment(femur, fracture, p)
    return periosteum(femur, fracture, _before_fracture(fracture, owner, p))


@jax.jit
def owning_fragment(
    femur: Femur, fracture: Fracture, p: Points
) -> tuple[Int[Array, "*points"], tuple[Scalars, ...], tuple[Scalars, ...]]:
    """The fragment that a point belongs to, inside bone or not.

    Returns:
        Its number; the distance to the region of each fragment in mm; each fragment's claim, of
        which the owner's is the least.
    """
    owner = jnp.zeros(p[0].shape, jnp.int32)
    least = jnp.inf
    regions, claims = [], []
    for k in range(FRAGMENTS):
        q = _undo_motion(fracture, k, p)
        local = relative_to_fracture(femur, fracture, q)
        regions.append(fragment_distance(femur, fracture, k, local))
        # Shortened fragments overlap as regions of space; there the bone of the shaft decides.
        claims.append(jnp.maximum(regions[k], length(local[0], local[1]) - femur.shaft_radius))
        owner = jnp.where(claims[k] < least, k, owner)
        least = jnp.minimum(claims[k], least)
    return owner, tuple(regions), tuple(claims)


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
def _endosteum(
    femur: Femur, fracture: Fracture, place: Points, outer: Scalars
) -> tuple[Scalars, Scalars]:
    """Distance to the inner surface of the cortex, and the share of bone behind it."""
    # The cortex is thicker by the beak, outwards, and by the flare, inwards.
    thickness = cortical_thickness(femur, place) + beak_height(femur, fracture, place)
    thickness += flare_height(femur, fracture, place)
    return outer + thickness, femur.trabecular * (1.0 - diaphysis(femur, place[2]))


@jax.jit
def _integrate_bone(
    owner: Int[Array, "nodes rays"],
    regions: tuple[Nodes, ...],
    claims: tuple[Nodes, ...],
    outer: Nodes,
    inner: Nodes,
    trabecular: Nodes,
) -> tuple[Float[Array, "rays"], Float[Array, "rays"]]:
    """Shares of rays in bone from distances at their nodes; see `bone_path`.

    An interval whose ends belong to two fragments changes hands where their claims are equal. A
    distance to the surface is one fragment's only: beyond the change it is extrapolated.
    """
    first, last = owner[:-1], owner[1:]
    start, end = slice(None, -1), slice(1, None)

    def of(number: Int[Array, "intervals rays"], fields: tuple[Nodes, ...], at: slice) -> Scalars:
        chosen = fields[0][at]
        for k in range(1, FRAGMENTS):
            chosen = jnp.where(number == k, fields[k][at], chosen)
        return chosen

    lead = of(last, claims, start) - of(first, claims, start)
    lag = of(first, claims, end) - of(last, claims, end)
    change = jnp.where(first != last, lead / (lead + lag + TINY), 1.0)
    here = inside(of(first, regions, start), of(first, regions, end))
    there = inside(of(last, regions, start), of(last, regions, end))
    here = here[0], jnp.minimum(here[1], change)
    there = jnp.maximum(there[0], change), there[1]

    def beyond(distance: Nodes, number: Int[Array, "nodes rays"]) -> Scalars:
        """Values at the ends of intervals, extrapolated from the two nodes before if need be."""
        slope = jnp.where(number[1:-1] == number[:-2], distance[1:-1] - distance[:-2], 0.0)
        slope = jnp.concatenate([jnp.zeros_like(slope[:1]), slope])
        return jnp.where(number[1:] != number[:-1], distance[:-1] + slope, distance[1:])

    def share(distance: Nodes) -> Scalars:
        forward = beyond(distance, owner)
        backward = beyond(distance[::-1], owner[::-1])[::-1]
        return overlap(inside(distance[:-1], forward), here) + overlap(
            inside(backward, distance[1:]), there
        )

    whole, cavity = share(outer), share(inner)
    hollow = 1.0 - 0.5 * (trabecular[:-1] + trabecular[1:])
    return (whole - hollow * cavity).mean(0), whole.mean(0)


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
def share_inside(distance: Nodes) -> Float[Array, "rays"]:
    """Share of rays, 0 to 1, in which a distance at equally spaced nodes is negative."""
    first, last = inside(distance[:-1], distance[1:])
    return (last - first).mean(0)


@jax.jit
def soft_path(femur: Femur, p: Points) -> tuple[Float[Array, "rays"], Float[Array, "rays"]]:
    """Shares of rays within the skin and within the fascia, bones included."""
    skin = thigh_distance(femur, p)
    return share_inside(skin), share_inside(skin + femur.fat)
