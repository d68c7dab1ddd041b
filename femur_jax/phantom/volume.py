"""Paths of rays through bone, marrow and soft tissue of a broken femur in its thigh.

A ray is sampled at nodes. Between two nodes the signed distance is assumed to be linear, and the
share of the interval where it is negative is exact. So surfaces stay sharp however far apart the
nodes are; the only error is the curvature of surfaces between nodes. All lengths are in mm.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from femur_jax.phantom.anatomy import (
    TINY,
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

Nodes = Float[Array, "nodes rays"]
Interval = tuple[Scalars, Scalars]


def inside(start: Scalars, end: Scalars) -> Interval:
    """The subinterval of an interval from 0 to 1 in which a linear distance is negative.

    Args:
        start: Signed distance at the interval's first end.
        end: Signed distance at the interval's other end.

    Returns:
        Both ends of the subinterval, which are equal if it is empty.
    """
    cross = start / jnp.where(start == end, 1.0, start - end)
    first = jnp.where(start < 0.0, 0.0, jnp.where(end < 0.0, cross, 1.0))
    last = jnp.where(end < 0.0, 1.0, jnp.where(start < 0.0, cross, first))
    return first, last


def overlap(a: Interval, b: Interval) -> Scalars:
    """Length of the intersection of two intervals."""
    return jnp.maximum(jnp.minimum(a[1], b[1]) - jnp.maximum(a[0], b[0]), 0.0)


class Rays(NamedTuple):
    """Rays from a common source to points of a flat detector, and the range to sample.

    Attributes:
        source: The focal spot, mm.
        middle: Vector from the source to the detector's middle, mm.
        axes: Unit vectors down and to the right on the detector.
        down: Distance of each ray's end below the detector's middle, mm.
        right: Distance of each ray's end to the right of the detector's middle, mm.
        near: Distance from the source at which sampling of each ray starts, mm.
        far: Distance from the source at which sampling of each ray ends, mm.
    """

    source: Float[np.ndarray | Array, "3"]
    middle: Float[np.ndarray | Array, "3"]
    axes: Float[np.ndarray | Array, "2 3"]
    down: Float[np.ndarray | Array, "rays"]
    right: Float[np.ndarray | Array, "rays"]
    near: Float[np.ndarray | Array, "rays"]
    far: Float[np.ndarray | Array, "rays"]


@partial(jax.jit, static_argnames="intervals")
def points(rays: Rays, intervals: int) -> Points:
    """Equally spaced points along rays, including both ends, shape [intervals + 1, rays]."""
    direction = [
        rays.middle[i] + rays.axes[0, i] * rays.down + rays.axes[1, i] * rays.right
        for i in range(3)
    ]
    share = jnp.arange(intervals + 1)[:, None] / intervals
    t = (rays.near + share * (rays.far - rays.near)) / length(*direction)
    x, y, z = (rays.source[i] + t * direction[i] for i in range(3))
    return x, y, z


def bone_path(
    femur: Femur, fracture: Fracture, p: Points
) -> tuple[Float[Array, "rays"], Float[Array, "rays"]]:
    """Shares of rays in mineralised bone and within the periosteum, marrow included.

    The steps are compiled separately: in a single program the compiler repeats the common
    computations for every use, which takes five times longer.

    Args:
        femur: The patient's femur.
        fracture: The patient's fracture.
        p: Equally spaced points along rays, shape [nodes, rays].
    """
    owner, regions, claims = owning_fragment(femur, fracture, p)
    intact = before_fracture(fracture, owner, p)
    return _mean(_bone_shares(owner, regions, claims, *_cortex(femur, fracture, intact)))


def bone_distance(femur: Femur, fracture: Fracture, p: Points) -> Scalars:
    """Distance in mm to the bones after the fracture, ignoring the gaps of fracture lines."""
    owner, _, _ = owning_fragment(femur, fracture, p)
    outer, _, _ = _cortex(femur, fracture, before_fracture(fracture, owner, p))
    return outer


@jax.jit
def owning_fragment(
    femur: Femur, fracture: Fracture, p: Points
) -> tuple[Int[Array, "*points"], tuple[Scalars, ...], tuple[Scalars, ...]]:
    """The fragment that a point belongs to, whether it is inside bone or not.

    Returns:
        The number of the fragment; the distance to the region of each fragment in mm; and each
        fragment's claim. The owner has the least claim.
    """
    owner = jnp.zeros(p[0].shape, jnp.int32)
    least = jnp.inf
    regions, claims = [], []
    for k in range(FRAGMENTS):
        q = _undo_motion(fracture, k, p)
        local = relative_to_fracture(femur, fracture, q)
        regions.append(fragment_distance(femur, fracture, k, local))
        # With shortening, the fragments' regions of space overlap; there the shaft's bone decides.
        claims.append(jnp.maximum(regions[k], length(local[0], local[1]) - femur.shaft_radius))
        owner = jnp.where(claims[k] < least, k, owner)
        least = jnp.minimum(claims[k], least)
    return owner, tuple(regions), tuple(claims)


@jax.jit
def before_fracture(fracture: Fracture, owner: Int[Array, "*points"], p: Points) -> Points:
    """Positions of points in the intact bone."""
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
def _cortex(femur: Femur, fracture: Fracture, p: Points) -> tuple[Scalars, Scalars, Scalars]:
    """Distances to the outer and inner surface of the cortex, and the bone fraction inside it."""
    beak = beak_height(femur, fracture, p)
    outer = jnp.minimum(femur_distance(femur, p) - beak, neighbour_distance(femur, p))
    # The beak thickens the cortex outwards and the flare inwards.
    thickness = cortical_thickness(femur, p) + beak + flare_height(femur, fracture, p)
    return outer, outer + thickness, femur.trabecular * (1.0 - diaphysis(femur, p[2]))


@jax.jit
def _bone_shares(
    owner: Int[Array, "nodes rays"],
    regions: tuple[Nodes, ...],
    claims: tuple[Nodes, ...],
    outer: Nodes,
    inner: Nodes,
    trabecular: Nodes,
) -> tuple[Scalars, Scalars]:
    """Shares of intervals in bone from distances at their nodes; see `bone_path`.

    An interval whose ends belong to two fragments is divided where their claims are equal. Each
    distance to the surface belongs to one fragment, so it is extrapolated up to the division.
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
        """Values at the ends of intervals, extrapolated if the end belongs to another fragment."""
        slope = jnp.where(number[1:-1] == number[:-2], distance[1:-1] - distance[:-2], 0.0)
        slope = jnp.pad(slope, ((1, 0), (0, 0)))
        return jnp.where(number[1:] != number[:-1], distance[:-1] + slope, distance[1:])

    def share(distance: Nodes) -> Scalars:
        forward = beyond(distance, owner)
        backward = beyond(distance[::-1], owner[::-1])[::-1]
        return overlap(inside(distance[:-1], forward), here) + overlap(
            inside(backward, distance[1:]), there
        )

    whole, cavity = share(outer), share(inner)
    hollow = 1.0 - 0.5 * (trabecular[:-1] + trabecular[1:])
    return whole - hollow * cavity, whole


@jax.jit
def _mean(shares: tuple[Float[Array, "intervals rays"], ...]) -> tuple[Float[Array, "rays"], ...]:
    return tuple(share.mean(0) for share in shares)


def _undo_motion(fracture: Fracture, k: int, p: Points) -> Points:
    """Undoes the motion of fragment k; the inverse of a rotation is its transpose."""
    x, y, z = (a - fracture.translation[k, i] for i, a in enumerate(p))
    r, z = fracture.rotation[k], z - fracture.height
    return (
        r[0, 0] * x + r[1, 0] * y + r[2, 0] * z,
        r[0, 1] * x + r[1, 1] * y + r[2, 1] * z,
        r[0, 2] * x + r[1, 2] * y + r[2, 2] * z + fracture.height,
    )


@jax.jit
def share_inside(distance: Nodes) -> Float[Array, "rays"]:
    """Share of each ray, 0 to 1, in which a distance at equally spaced nodes is negative."""
    first, last = inside(distance[:-1], distance[1:])
    return (last - first).mean(0)


@jax.jit
def bounds(distance: Nodes, margin: Number) -> tuple[Float[Array, "rays"], Float[Array, "rays"]]:
    """First and last point of each ray within a margin of a body.

    Returns:
        Two shares of the ray, 0 to 1. If the ray misses the body, they are inf and -inf.
    """
    first, last = inside(distance[:-1] - margin, distance[1:] - margin)
    intervals = len(first)
    node = jnp.arange(intervals)[:, None]
    near = jnp.where(last > first, node + first, jnp.inf).min(0)
    far = jnp.where(last > first, node + last, -jnp.inf).max(0)
    return near / intervals, far / intervals


@jax.jit
def soft_path(femur: Femur, p: Points) -> tuple[Float[Array, "rays"], Float[Array, "rays"]]:
    """Shares of rays within the skin and within the fascia, including bones."""
    skin = thigh_distance(femur, p)
    return share_inside(skin), share_inside(skin + femur.fat)
