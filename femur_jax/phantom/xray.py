"""From an implicit volume to a detector's logarithmic signal.

Path lengths through each material are integrated along the rays of a cone beam; attenuation is
monoenergetic Beer-Lambert at an effective energy; the detector adds scatter, quantum noise and
blur. All lengths are in mm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from scipy import ndimage

from femur_jax.phantom.anatomy import Femur, Number, Points, Scalars
from femur_jax.phantom.fracture import Fracture
from femur_jax.phantom.volume import bone_content, soft_content

ENERGY_KEV = 50.0
"""Effective energy of a 70 to 80 kV beam."""

ATTENUATION = 0.1 * np.array([1.92 * 0.4242, 0.95 * 0.2123, 1.06 * 0.2264])
"""Linear attenuation in 1/mm of cortical bone, adipose tissue (marrow too) and soft tissue.

Density in g/cm3 times mass attenuation in cm2/g at 50 keV: NIST Standard Reference Database 126
(Hubbell and Seltzer), tables of ICRU-44 tissues.
"""

RAYS = 8192
SAMPLES = 64
"""Rays of a chunk, and depths along each ray."""

Occupancy = Callable[[Points, Number], tuple[Scalars, ...]]


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


def path_lengths(
    occupancy: Occupancy,
    source: Float[np.ndarray, "3"],
    directions: Float[np.ndarray, "3 rays"],
    near: float,
    far: float,
) -> tuple[Float[Array, "rays"], ...]:
    """Length of each ray in each material, in mm, by the midpoint rule with SAMPLES points.

    Args:
        occupancy: Volume fractions at points, anti-aliased over the given width in mm.
        source: Origin of all rays.
        directions: Unit vectors.
        near: Distance from the source where integration starts.
        far: Where it ends.
    """
    step = (far - near) / SAMPLES
    shares = occupancy(_samples(source, directions, near, step), step)
    return _integrate(shares, step)


@jax.jit
def _samples(
    source: Float[Array, "3"],
    directions: Float[Array, "3 rays"],
    near: Number,
    step: Number,
) -> Points:
    """Midpoints of all depth intervals, shape [SAMPLES, rays] each."""
    t = near + (jnp.arange(SAMPLES)[:, None] + 0.5) * step
    x, y, z = (source[i] + t * directions[i] for i in range(3))
    return x, y, z


@jax.jit
def _integrate(
    shares: tuple[Float[Array, "samples rays"], ...], step: Number
) -> tuple[Float[Array, "rays"], ...]:
    return tuple(step * share.sum(0) for share in shares)


def project(
    femur: Femur,
    fracture: Fracture,
    camera: Camera,
    height: int,
    width: int,
    spacing: float,
    supersample: int = 1,
) -> Float32[np.ndarray, "height width 3"]:
    """Path lengths in mm through bone, adipose and soft tissue for every pixel of a detector.

    Rays are traced in chunks of one size, so a single compilation serves all images and memory
    beyond the result does not grow with them.

    Args:
        femur: The patient.
        fracture: How the femur is broken.
        camera: Geometry.
        height: Rows.
        width: Columns.
        spacing: Side of a detector pixel.
        supersample: Rays per pixel along each side; their lengths are averaged.
    """
    # Equal types for all patients, or each mixture of Python and numpy floats compiles anew.
    femur, fracture = jax.tree.map(np.float32, (femur, fracture))
    rows, columns = height * supersample, width * supersample
    pitch = spacing / supersample
    down = ((np.arange(rows) - 0.5 * (rows - 1)) * pitch).astype(np.float32)
    right = ((np.arange(columns) - 0.5 * (columns - 1)) * pitch).astype(np.float32)
    lengths = np.empty((rows * columns, 3), np.float32)
    source = camera.source.astype(np.float32)
    middle = (camera.centre - camera.source).astype(np.float32)
    axes = np.stack([camera.down, camera.right]).astype(np.float32)
    distance = 0.5 * sum(camera.depth)
    skin = (distance - 200.0, distance + 200.0)
    for start in range(0, rows * columns, RAYS):
        index = np.arange(start, start + RAYS) % (rows * columns)
        rays = middle + np.stack([down[index // columns], right[index % columns]], -1) @ axes
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        stop = min(start + RAYS, rows * columns)
        mineral, marrow, whole = path_lengths(
            partial(bone_content, femur, fracture), source, rays.T, *camera.depth
        )
        fat, fascia = path_lengths(partial(soft_content, femur), source, rays.T, *skin)
        muscle = np.maximum(fascia - whole, 0.0)
        lengths[start:stop] = np.stack([mineral, marrow + fat, muscle], -1)[: stop - start]
    blocks = lengths.reshape(height, supersample, width, supersample, 3)
    return blocks.mean((1, 3))


def power_law_noise(
    rng: np.random.Generator, shape: tuple[int, int], exponent: float
) -> Float32[np.ndarray, "height width"]:
    """Noise of unit variance with power spectrum 1 / f^exponent: the texture of tissue.

    Burgess, J Opt Soc Am A 1999;16:633-646, measures exponents about 3 in radiographs.
    """
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape, np.float32))
    noise = np.fft.irfft2(spectrum * frequency ** (-0.5 * exponent), s=shape)
    return (noise / noise.std()).astype(np.float32)


def add_texture(
    rng: np.random.Generator, lengths: Float32[np.ndarray, "height width 3"]
) -> Float32[np.ndarray, "height width 3"]:
    """Lets bone and muscle vary as tissue does: trabeculae finely, muscle coarsely."""
    shape = lengths.shape[:2]
    factors = np.ones_like(lengths)
    factors[..., 0] += 0.04 * power_law_noise(rng, shape, 1.5)
    factors[..., 2] += 0.015 * power_law_noise(rng, shape, 3.0)
    return lengths * factors


def transmission(
    lengths: Float[np.ndarray, "*pixels materials"],
    attenuation: Float[np.ndarray, "materials"] = ATTENUATION,
) -> Float[np.ndarray, "*pixels"]:
    """Beer-Lambert: exp(-sum_m mu_m l_m), the share of photons that passes, 0 to 1."""
    return np.exp(-(lengths @ attenuation.astype(lengths.dtype)))


def broad_blur(
    image: Float[np.ndarray, "height width"], sigma: float
) -> Float[np.ndarray, "height width"]:
    """Near-Gaussian blur by three box filters, whose cost does not depend on sigma (pixels).

    Wells, IEEE PAMI 1986;8:234-239; a box of n pixels has variance (n^2 - 1) / 12.
    """
    size = max(1, round(float(np.sqrt(4.0 * sigma**2 + 1.0))))
    for _ in range(3):
        image = ndimage.uniform_filter(image, size, mode="nearest")
    return image


def detect(
    rng: np.random.Generator,
    primary: Float32[np.ndarray, "height width"],
    *,
    spacing: float,
    photons: float,
    scatter: float,
    blur: float,
) -> Float32[np.ndarray, "height width"]:
    """The detector's signal as log attenuation, 0 in air, bright in bone.

    Args:
        rng: Source of the quantum noise.
        primary: Transmission of the primary beam, 0 to 1.
        spacing: Side of a pixel, mm.
        photons: Mean count in an open pixel.
        scatter: Scattered over primary photons, spread over about 40 mm.
        blur: Standard deviation of the detector's blur, pixels.
    """
    scattered = scatter * broad_blur(primary, 40.0 / spacing)
    expected = ndimage.gaussian_filter(primary + scattered, blur)
    counts = rng.poisson(photons * expected).astype(np.float32)
    # Half a count stands for none: the logarithm stays finite.
    return -np.log(np.maximum(counts, 0.5) / np.float32(photons * (1.0 + scatter)))
