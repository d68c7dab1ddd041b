"""What a detector is to expect of a scene: the logarithm of the signal, without noise.

Rays are traced only where the image demands it, see `refine`. All lengths are in mm.
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
"""Largest distance of traced rays, in mm and in pixels; half of it near the fracture."""

FRACTURE_MM = 40.0
"""How far above and below its middle a fracture's line is looked for."""

TOLERANCE = 0.01
"""Error of the interpolated logarithm of the signal: as large as the noise of 10^4 photons."""


Places = Int[np.ndarray, "points"]
Values = Float32[np.ndarray, "points"]


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

    def transmit(row: Places, column: Places) -> tuple[Values, Values]:
        down = ((row - 0.5 * (grid[0] - 1)) * pitch).astype(np.float32)
        right = ((column - 0.5 * (grid[1] - 1)) * pitch).astype(np.float32)
        lengths = scene.lengths(down, right)
        lengths["soft"] *= 1 + muscle.at(down, right)
        beam = 1 + (heel[0] * down + heel[1] * right) / np.float32(source_distance)
        transmission, sensitivity = attenuate(lengths)
        return beam * transmission, sensitivity

    rows, columns = coarse_grid(grid, step)
    places = [a.ravel() for a in np.meshgrid(rows, columns, indexing="ij")]
    primary, sensitivity = transmit(*places)
    spread = gaussian(primary.reshape(len(rows), len(columns)), 40.0 / (pitch * step))

    def signal(primary: Values, sensitivity: Values, row: Places, column: Places) -> np.ndarray:
        total = primary + np.float32(scatter) * spread.at(row / step, column / step)
        open_beam = np.float32(np.log(1.0 + scatter))
        return np.stack([open_beam - np.log(total), sensitivity * primary / total])

    def sample(row: Places, column: Places) -> np.ndarray:
        return signal(*transmit(row, column), row, column)

    coarse = signal(primary, sensitivity, *places).reshape(2, len(rows), len(columns))
    # A line may lie between two rows of the coarse grid.
    below = (rows - 0.5 * (grid[0] - 1)) * pitch
    near = np.abs(below - scene.fracture_row) < FRACTURE_MM
    watched = near[:, None] & (coarse[1] > 0)
    image = refine(sample, coarse, step, grid, TOLERANCE, watched)
    return Exposure(image, rays, shape)
