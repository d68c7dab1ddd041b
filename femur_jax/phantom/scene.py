"""Traces rays through a patient: path lengths in every material. All lengths are in mm."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Float32
from scipy import ndimage

from femur_jax.phantom.anatomy import Femur, Points, Scalars, axis_at, thigh_distance
from femur_jax.phantom.camera import Camera
from femur_jax.phantom.fracture import Fracture
from femur_jax.phantom.volume import (
    Rays,
    bone_distance,
    bone_path,
    bounds,
    points,
    share_inside,
    soft_path,
)

RAYS = 1024
"""Rays traced at once. Arrays of their points are too small for the allocator to map memory."""

SEARCH_MM, SEARCH_INTERVALS = 6.0, 48
"""Distance between the rays of the search for the bodies, and number of intervals of each ray."""


class Implant(NamedTuple):
    """A foreign body.

    Attributes:
        distance: Signed distance of points in mm, as a `jax.tree_util.Partial` of one function
            for all patients, so that it is compiled once.
        material: Name of the material in `spectrum.ATTENUATION`.
    """

    distance: Partial
    material: str


@dataclass(frozen=True)
class _Body:
    """One body for the ray tracer.

    Attributes:
        shares: A function of points along rays that returns the share of each ray in each of the
            body's regions.
        region_count: Number of regions.
        intervals: Number of intervals between the points of a ray.
        extent: Least and greatest distance from the source at which the body may lie, for each ray
            of the search. The first is greater where the body does not lie.
    """

    shares: Callable[[Points], tuple[Float[Array, "rays"], ...]]
    region_count: int
    intervals: int
    extent: Float32[np.ndarray, "2 rows columns"]


class Scene:
    """A patient in front of a camera.

    A search along a few rays first bounds where bones, skin and implants lie, with a margin. All
    other rays are sampled only between these bounds.

    Args:
        femur: The patient's femur.
        fracture: The patient's fracture.
        camera: Geometry of the beam.
        size: Height and width of the detector, mm.
        implants: Foreign bodies in and around the thigh.

    Attributes:
        fracture_row: Distance of the fracture below the detector's middle, mm.
    """

    def __init__(
        self,
        femur: Femur,
        fracture: Fracture,
        camera: Camera,
        size: tuple[float, float],
        implants: Sequence[Implant] = (),
    ):
        # With equal types for all patients, the functions are compiled only once.
        self._femur, self._fracture = jax.tree.map(jnp.float32, (femur, fracture))
        self._source, self._middle, self._axes = jax.tree.map(
            jnp.float32,
            (camera.source, camera.centre - camera.source, np.stack([camera.down, camera.right])),
        )
        self._size = size
        x, y = axis_at(femur, fracture.height)
        self.fracture_row = camera.pixel(np.array([x, y, fracture.height], float))[1]
        middle = 0.5 * sum(camera.depth)
        thigh = (middle - 200.0, middle + 200.0)
        find = self._find
        self._bone = find(
            partial(bone_distance, self._femur, self._fracture),
            partial(bone_path, self._femur, self._fracture),
            2,
            camera.depth,
            24,
        )
        skin = partial(_skin_distance, self._femur)
        self._soft = find(skin, partial(soft_path, self._femur), 2, thigh, 20)
        self._implants = [
            (
                i.material,
                find(
                    partial(_implant_distance, i.distance),
                    partial(_implant_path, i.distance),
                    1,
                    thigh,
                    64,
                ),
            )
            for i in implants
        ]

    def lengths(
        self, down: Float[np.ndarray, "rays"], right: Float[np.ndarray, "rays"]
    ) -> dict[str, Float32[np.ndarray, "rays"]]:
        """Path lengths in mm through each material of rays to points of the detector.

        Args:
            down: Distance of each point below the detector's middle, mm.
            right: Distance of each point to the right of the detector's middle, mm.
        """
        down, right = down.astype(np.float32), right.astype(np.float32)
        mineral, whole = self._trace(self._bone, down, right)
        skin, fascia = self._trace(self._soft, down, right)
        result = {"bone": mineral, "adipose": whole - mineral + skin - fascia}
        displaced = whole
        for material, body in self._implants:
            (path,) = self._trace(body, down, right)
            result[material] = result.get(material, 0.0) + path
            displaced = displaced + path
        result["soft"] = np.maximum(fascia - displaced, 0.0)
        return result

    def _find(
        self,
        distance: Callable[[Points], Scalars],
        shares: Callable[[Points], tuple[Float[Array, "rays"], ...]],
        region_count: int,
        depth: tuple[float, float],
        intervals: int,
    ) -> _Body:
        """Finds the extent of the body with the given distance function."""
        rows, columns = (int(np.ceil(side / SEARCH_MM)) + 1 for side in self._size)
        down = (np.arange(rows, dtype=np.float32) - 0.5 * (rows - 1)) * SEARCH_MM
        right = (np.arange(columns, dtype=np.float32) - 0.5 * (columns - 1)) * SEARCH_MM
        down, right = (a.ravel() for a in np.meshgrid(down, right, indexing="ij"))
        near, far = (np.full(down.size, d, np.float32) for d in depth)
        # Any other ray is at most 0.71 x SEARCH_MM from the nearest of these rays, and its points
        # are at most half a step from a node.
        length = depth[1] - depth[0]
        margin = 0.75 * SEARCH_MM + 0.5 * length / SEARCH_INTERVALS
        chunks = self._chunks(down, right, near, far, SEARCH_INTERVALS)
        extents = [np.stack(bounds(distance(p), margin)) for p in chunks]
        near, far = np.concatenate(extents, 1)[:, : down.size].reshape(2, rows, columns)
        near, far = depth[0] + length * near, depth[0] + length * far
        # Near the end of a displaced fragment distances jump, so the neighbours' bounds count too.
        near = ndimage.minimum_filter(near, 3, mode="nearest")
        far = ndimage.maximum_filter(far, 3, mode="nearest")
        return _Body(shares, region_count, intervals, np.stack([near, far]))

    def _trace(
        self, body: _Body, down: Float32[np.ndarray, "rays"], right: Float32[np.ndarray, "rays"]
    ) -> Float32[np.ndarray, "regions rays"]:
        """Lengths of rays within each region of a body, mm."""
        rows, columns = body.extent.shape[1:]
        scale = np.float32(1.0 / SEARCH_MM)
        # Adding a half before the cast rounds to the nearest ray of the search.
        row = (down * scale + np.float32(0.5 * rows)).astype(np.int32)
        column = (right * scale + np.float32(0.5 * columns)).astype(np.int32)
        nearest = np.clip(row, 0, rows - 1) * columns + np.clip(column, 0, columns - 1)
        near, far = (np.take(bound, nearest) for bound in body.extent)
        hit = np.flatnonzero(near < far)
        near, far = near[hit], far[hit]
        chunks = self._chunks(down[hit], right[hit], near, far, body.intervals)
        lengths = np.zeros((body.region_count, len(down)), np.float32)
        if len(hit):
            shares = np.concatenate([np.stack(body.shares(p)) for p in chunks], 1)
            lengths[:, hit] = shares[:, : len(hit)] * (far - near)
        return lengths

    def _chunks(
        self,
        down: Float32[np.ndarray, "rays"],
        right: Float32[np.ndarray, "rays"],
        near: Float32[np.ndarray, "rays"],
        far: Float32[np.ndarray, "rays"],
        intervals: int,
    ) -> Iterator[Points]:
        """Yields points along RAYS rays at a time; copies of the last ray fill the last chunk."""
        for start in range(0, len(down), RAYS):
            chunk = slice(start, start + RAYS)
            columns = [a[chunk] for a in (down, right, near, far)]
            short = RAYS - len(columns[0])
            if short:
                columns = [np.pad(a, (0, short), mode="edge") for a in columns]
            yield points(Rays(self._source, self._middle, self._axes, *columns), intervals)


@jax.jit
def _skin_distance(femur: Femur, p: Points) -> Scalars:
    return thigh_distance(femur, p)


@jax.jit
def _implant_distance(distance: Partial, p: Points) -> Scalars:
    return distance(p)


@jax.jit
def _implant_path(distance: Partial, p: Points) -> tuple[Float[Array, "rays"]]:
    return (share_inside(distance(p)),)
