"""Where tiles lie on a level, and the weights that blend their estimates."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Ints: TypeAlias = Int[Array, "*#shape"] | Int[np.ndarray, "*#shape"]


class Cover(NamedTuple):
    """The tile along one side that covers each pixel, and the weight of its estimate."""

    tile: Int[Array, "*shape"]
    weight: Float[Array, "*shape"]


class Grid(NamedTuple):
    """Tiles along a side of any length.

    A grid of cells that share some pixels with their neighbours covers the side. Where two cells
    share pixels, weights pass smoothly from one to the other as sin^2 and cos^2; with no overlap
    each pixel belongs to one cell. A last cell that sticks out is served by a tile at the border,
    so that no tile lies where no patch lay in training.

    Attributes:
        patch: The side of a tile.
        shared: The number of pixels that a cell shares with the next, even, at most half of them.
    """

    patch: int
    shared: int

    @classmethod
    def of(cls, patch: int, overlap: float) -> "Grid":
        """The grid in which a tile shares a fraction, from 0 to 0.5, with the next."""
        return cls(patch, 2 * round(overlap * patch / 2))

    @property
    def period(self) -> int:
        """The number of pixels from one cell to the next."""
        return self.patch - self.shared

    def count(self, length: Ints) -> Ints:
        """The number of tiles along a side of a length."""
        return 1 + -(-(length - self.patch).clip(0) // self.period)

    def origin(self, tile: Ints, length: Ints) -> Int[Array, "*shape"]:
        """The first pixel of a tile; even, as in training, and inside the level."""
        last = (length - self.patch + 1).clip(0) & ~1  # the next even number; `loader.last_origin`
        return jnp.minimum(tile * self.period, last)

    def covers(self, pixel: Ints, length: Ints) -> tuple[Cover, Cover]:
        """The two tiles that cover a pixel; their weights add up to 1.

        Where a single tile covers it, both are this tile, and the second weight is 0.
        """
        ramp = np.sin(np.pi / 2 * (np.arange(self.shared) + 0.5) / max(self.shared, 1)) ** 2
        rise = jnp.asarray(np.append(ramp, 1.0), jnp.float32)
        cell = jax.lax.div(pixel, self.period)  # as //, but faster: no pixel is negative
        tile = jnp.minimum(cell, self.count(length) - 1)
        into = pixel - tile * self.period
        weight = jnp.where(tile > 0, rise.at[into].get(mode="clip"), 1.0)
        before = jnp.where(weight < 1, tile - 1, tile)
        return Cover(tile, weight), Cover(before, 1 - weight)
