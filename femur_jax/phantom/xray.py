"""A cone beam through a patient: the logarithm of the signal that is to be expected.

Rays are traced only where the image demands it, see `refine`. All lengths are in mm.
"""

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
from femur_jax.phantom.fracture import Fracture
from femur_jax.phantom.interpolate import gaussian
from femur_jax.phantom.refine import Refined, coarse_grid, refine
from femur_jax.phantom.spectrum import attenuate
from femur_jax.phantom.texture import Texture
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
"""Rays traced at once; arrays of their points stay below the size from which memory is mapped."""

SEARCH_MM, SEARCH_INTERVALS = 6.0, 48
"""Distance between the rays that find out where the bodies are, and intervals of each."""

COARSEST_MM, COARSEST_STEP = 1.6, 16
"""Largest distance of traced rays, in mm and in pixels; half of it near the fracture."""

FRACTURE_MM = 40.0
"""How far above and below its middle a fracture's line is looked for."""

TOLERANCE = 0.01
"""Error of the interpolated logarithm of the signal: as large as the noise of 10^4 photons."""


@dataclass(frozen=True)
class Camera:
    """A point source and a flat detector in patient coordinates, mm.

    Attributes:
        source: The focal spot.
        centre: Middle of the detector.
        right: Unit vector along a row of the image.
        down: Unit vector along a column of the image.
        depth: Distances from the source between which the bones lie.
        magnification: Source-to-detector over source-to-bone distance.
    """

    source: Float[np.ndarray, "3"]
    centre: Float[np.ndarray, "3"]
    right: Float[np.ndarray, "3"]
    down: Float[np.ndarray, "3"]
    depth: tuple[float, float]
    magnification: float

    def pixel(self, point: Float[np.ndarray, "3"]) -> tuple[float, float]:
        """Where a point appears: mm to the right of and below the detector's middle."""
        normal = np.cross(self.right, self.down)
        ray = point - self.source
        hit = self.source + ray * (normal @ (self.centre - self.source)) / (normal @ ray)
        return float((hit - self.centre) @ self.right), float((hit - self.centre) @ self.down)


def aim(
    target: Float[np.ndarray, "3"],
    *,
    view: str,
    laterality: str,
    turn: float = 0.0,
    tilt: float = 0.0,
    source_distance: float = 1150.0,
    detector_distance: float = 120.0,
) -> Camera:
    """Points the central ray at a target.

    Args:
        target: In patient coordinates.
        view: 'AP' (front to back, the patient facing the viewer) or 'lateral'.
        laterality: 'L' or 'R'; a right leg's outer side is on the left of an AP image.
        turn: Error of the leg's rotation about its axis, rad.
        tilt: Rotation within the image, rad.
        source_distance: Focal spot to detector.
        detector_distance: Target to detector.
    """
    angle = turn + (np.pi / 2 if view == "lateral" else 0.0)
    beam = np.array([-np.sin(angle), -np.cos(angle), 0.0])
    across = np.array([np.cos(angle), -np.sin(angle), 0.0]) * (1.0 if laterality == "L" else -1.0)
    down = np.array([0.0, 0.0, -1.0])
    object_distance = source_distance - detector_distance
    half_depth = 105.0 if view == "lateral" else 65.0
    return Camera(
        source=target - object_distance * beam,
        centre=target + detector_distance * beam,
        right=np.cos(tilt) * across + np.sin(tilt) * down,
        down=np.cos(tilt) * down - np.sin(tilt) * across,
        depth=(object_distance - half_depth, object_distance + half_depth),
        magnification=source_distance / object_distance,
    )


class Implant(NamedTuple):
    """A foreign body.

    Attributes:
        distance: Signed distance of points in mm; a `jax.tree_util.Partial` of one function for
            all patients, so that it is compiled once.
        material: Its name in `spectrum.ATTENUATION`.
    """

    distance: Partial
    material: str


@dataclass(frozen=True)
class _Body:
    """Rays through one body.

    Attributes:
        shares: Of rays within it and its parts, from points along them.
        parts: How many these are.
        parts: How many these are.
        intervals: Between the points.
        extent: Between which distances from the source it may lie, by ray of the search;
            the first is greater where it does not.
    """

    shares: Callable[[Points], tuple[Float[Array, "rays"], ...]]
    parts: int
    parts: int
    intervals: int
    extent: Float32[np.ndarray, "2 rows columns"]


class Scene:
    """A patient before a camera.

    A few rays are searched first for where bones, skin and implants lie, with a margin; all others
    are sampled between these bounds only.

    Args:
        femur: The patient.
        fracture: How the femur is broken.
        camera: Geometry.
        size: Height and width of the detector, mm.
        implants: Foreign bodies.

    Attributes:
        fracture_row: How far below the detector's middle the fracture appears, mm.
    """

    def __init__(
        self,
        femur: Femur,
        fracture: Fracture,
        camera: Camera,
        size: tuple[float, float],
        implants: Sequence[Implant] = (),
    ):
        # Equal types for all patients, or each mixture of Python and numpy floats compiles anew.
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
        """Path lengths in mm through each material of rays to places of the detector.

        Args:
            down: Of the detector's middle, mm.
            right: Of it, mm.
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
        parts: int,
        depth: tuple[float, float],
        intervals: int,
    ) -> _Body:
        """Searches for a body whose distance is known."""
        rows, columns = (int(np.ceil(side / SEARCH_MM)) + 1 for side in self._size)
        down = (np.arange(rows, dtype=np.float32) - 0.5 * (rows - 1)) * SEARCH_MM
        right = (np.arange(columns, dtype=np.float32) - 0.5 * (columns - 1)) * SEARCH_MM
        down, right = (a.ravel() for a in np.meshgrid(down, right, indexing="ij"))
        near, far = (np.full(down.size, d, np.float32) for d in depth)
        # Another ray is at most 0.71 x SEARCH_MM from the nearest of these, a point of it a
        # quarter of a step from the nearest node in the mean.
        length = depth[1] - depth[0]
        margin = 0.75 * SEARCH_MM + 0.25 * length / SEARCH_INTERVALS
        chunks = self._chunks(down, right, near, far, SEARCH_INTERVALS)
        found = [np.stack(bounds(distance(p), margin)) for p in chunks]
        near, far = np.concatenate(found, 1)[:, : down.size].reshape(2, rows, columns)
        near, far = depth[0] + length * near, depth[0] + length * far
        # The neighbours' bounds too: beside the end of a displaced fragment distances jump.
        near = ndimage.minimum_filter(near, 3, mode="nearest")
        far = ndimage.maximum_filter(far, 3, mode="nearest")
        return _Body(shares, parts, intervals, np.stack([near, far]))

    def _trace(
        self, body: _Body, down: Float32[np.ndarray, "rays"], right: Float32[np.ndarray, "rays"]
    ) -> Float32[np.ndarray, "parts rays"]:
        """Lengths of rays within a body and its parts, mm."""
        rows, columns = body.extent.shape[1:]
        scale = np.float32(1.0 / SEARCH_MM)
        # Adding half before the cast rounds to the nearest ray of the search.
        row = (down * scale + np.float32(0.5 * rows)).astype(np.int32)
        column = (right * scale + np.float32(0.5 * columns)).astype(np.int32)
        nearest = np.clip(row, 0, rows - 1) * columns + np.clip(column, 0, columns - 1)
        near, far = (np.take(bound, nearest) for bound in body.extent)
        hit = np.flatnonzero(near < far)
        near, far = near[hit], far[hit]
        chunks = self._chunks(down[hit], right[hit], near, far, body.intervals)
        lengths = np.zeros((body.parts, len(down)), np.float32)
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
        """Points along rays, RAYS of them at a time; the last ray fills the last chunk."""
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


@dataclass(frozen=True)
class Exposure:
    """What a detector is to expect.

    Attributes:
        image: Logarithm of the open beam over the expected intensity, 0 in air, and its change by
            a relative change of the mineralised bone.
        rays: Points of the image per pixel along each side.
        shape: Height and width, pixels.
    """

    image: Refined
    rays: int
    shape: tuple[int, int]

    def rows(self, top: int, bottom: int) -> Float32[np.ndarray, "2 rows width"]:
        """Both channels of some rows of pixels."""
        n = self.rays
        block = self.image.rows(n * top, n * bottom)
        if n == 1:
            return block
        return block.reshape(2, bottom - top, n, self.shape[1], n).mean((2, 4))


def expose(
    scene: Scene,
    shape: tuple[int, int],
    spacing: float,
    *,
    muscle: Texture,
    scatter: float,
    heel: tuple[float, float] = (0.0, 0.0),
    source_distance: float = 1150.0,
) -> Exposure:
    """Takes a picture without noise.

    Args:
        scene: The patient before the camera.
        shape: Height and width, pixels.
        spacing: Side of a pixel, mm.
        muscle: Relative deviations of soft tissue.
        scatter: Scattered over primary photons behind the grid, spread over about 40 mm.
        heel: Relative rise of the beam's intensity per radian downwards and to the right: the
            anode absorbs part of what leaves at a small angle to it.
        source_distance: Of the detector, mm.
    """
    # Cortices thinner than a pixel alias unless several rays share it.
    rays = 2 if spacing > 0.5 else 1
    grid, pitch = (shape[0] * rays, shape[1] * rays), spacing / rays
    step = COARSEST_STEP
    while step > 1 and step * pitch > COARSEST_MM:
        step //= 2

    def transmit(row, column):
        down = ((row - 0.5 * (grid[0] - 1)) * pitch).astype(np.float32)
        right = ((column - 0.5 * (grid[1] - 1)) * pitch).astype(np.float32)
        lengths = scene.lengths(down, right)
        lengths["soft"] *= 1 + muscle.at(down, right)
        beam = 1 + heel[0] * down / source_distance + heel[1] * right / source_distance
        transmission, sensitivity = attenuate(lengths)
        return np.float32(beam) * transmission, sensitivity

    rows, columns = coarse_grid(grid, step)
    places = [a.ravel() for a in np.meshgrid(rows, columns, indexing="ij")]
    primary, sensitivity = transmit(*places)
    spread = gaussian(primary.reshape(len(rows), len(columns)), 40.0 / (pitch * step))

    def logarithm(primary, sensitivity, row, column):
        total = primary + scatter * spread.at(row / step, column / step)
        return np.stack(
            [np.log(np.float32(1.0 + scatter)) - np.log(total), sensitivity * primary / total]
        )

    def sample(row, column):
        return logarithm(*transmit(row, column), row, column)

    coarse = logarithm(primary, sensitivity, *places).reshape(2, len(rows), len(columns))
    # A line may lie between two rows of the coarse grid.
    below = (rows - 0.5 * (grid[0] - 1)) * pitch
    near = np.abs(below - scene.fracture_row) < FRACTURE_MM
    watched = near[:, None] & (coarse[1] > 0)
    image = refine(sample, coarse, step, grid, TOLERANCE, watched)
    return Exposure(image, rays, shape)
