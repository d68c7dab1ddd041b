"""The expected signal of a detector: its logarithm, without noise.

Rays are traced only where the image needs them, see `refine`. All lengths are in mm.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from femur_jax.phantom.interpolate import gaussian
from femur_jax.phantom.refine import Refined, coarse_grid, refine
from femur_jax.phantom.scene import Scene
from femur_jax.phantom.spectrum import attenuate
from femur_jax.phantom.texture import Texture

COARSEST_MM, COARSEST_STEP = 1.6, 16
"""Largest distance between traced rays, in mm and in pixels; half of it near the fracture."""

FRACTURE_MM = 40.0
"""Distance above and below a fracture's middle within which rays are denser, mm."""

TOLERANCE = 0.01
"""Largest error of the interpolated log signal, which is the noise of 10^4 photons."""

Indices = Int[np.ndarray, "points"]
Values = Float32[np.ndarray, "points"]


@dataclass(frozen=True)
class Exposure:
    """The expected signal of a detector.

    Attributes:
        image: Logarithm of the open beam over the expected intensity, 0 in air, and its change per
            relative change of the mineralised bone.
        rays: Number of rays along each side of a pixel.
        shape: Height and width, pixels.
    """

    image: Refined
    rays: int
    shape: tuple[int, int]

    def rows(self, top: int, bottom: int) -> Float32[np.ndarray, "2 rows width"]:
        """Both channels of the rows of pixels from `top` to before `bottom`."""
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
    """Takes a radiograph without noise.

    Args:
        scene: The patient in front of the camera.
        shape: Height and width, pixels.
        spacing: Side of a pixel, mm.
        muscle: Texture of soft tissue, as deviations from its mean attenuation.
        scatter: Ratio of scattered to primary photons behind the grid, spread over about 40 mm.
        heel: Increase of the beam's intensity, as a share of it, per radian downwards and to the
            right. The anode absorbs more of the beam that leaves at a small angle to its surface.
        source_distance: Distance from the focal spot to the detector, mm.
    """
    # Cortices thinner than a pixel alias unless several rays sample each pixel.
    rays = 2 if spacing > 0.5 else 1
    grid, pitch = (shape[0] * rays, shape[1] * rays), spacing / rays
    step = COARSEST_STEP
    while step > 1 and step * pitch > COARSEST_MM:
        step //= 2

    def transmit(row: Indices, column: Indices) -> tuple[Values, Values]:
        down = ((row - 0.5 * (grid[0] - 1)) * pitch).astype(np.float32)
        right = ((column - 0.5 * (grid[1] - 1)) * pitch).astype(np.float32)
        lengths = scene.lengths(down, right)
        lengths["soft"] *= 1 + muscle.at(down, right)
        beam = 1 + (heel[0] * down + heel[1] * right) / np.float32(source_distance)
        transmission, sensitivity = attenuate(lengths)
        return beam * transmission, sensitivity

    rows, columns = coarse_grid(grid, step)
    grid_points = [a.ravel() for a in np.meshgrid(rows, columns, indexing="ij")]
    primary, sensitivity = transmit(*grid_points)
    spread = gaussian(primary.reshape(len(rows), len(columns)), 40.0 / (pitch * step))

    def signal(primary: Values, sensitivity: Values, row: Indices, column: Indices) -> np.ndarray:
        total = primary + np.float32(scatter) * spread.at(row / step, column / step)
        open_beam = np.float32(np.log(1.0 + scatter))
        return np.stack([open_beam - np.log(total), sensitivity * primary / total])

    def sample(row: Indices, column: Indices) -> np.ndarray:
        return signal(*transmit(row, column), row, column)

    coarse = signal(primary, sensitivity, *grid_points).reshape(2, len(rows), len(columns))
    # A fracture line may lie between two rows of the coarse grid.
    below = (rows - 0.5 * (grid[0] - 1)) * pitch
    near = np.abs(below - scene.fracture_row) < FRACTURE_MM
    watched = near[:, None] & (coarse[1] > 0)
    image = refine(sample, coarse, step, grid, TOLERANCE, watched)
    return Exposure(image, rays, shape)
