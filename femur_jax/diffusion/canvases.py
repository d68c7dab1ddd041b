"""Unfinished radiographs of one level in flat buffers on a device.

Pixels of all canvases lie one after another, row by row. Where a canvas begins and how long its
rows are is data and not a shape: buffers have few lengths (`_rounded`), so that programs that are
compiled once serve radiographs of all sizes. Buffers lie on the first device of the process;
denoisers divide tiles among all of them.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key, UInt16

from femur_jax.data import radiograph
from femur_jax.data.radiograph import LABELS
from femur_jax.data.synthetic import Request
from femur_jax.diffusion.conditioning import AnyArray, Conditioning
from femur_jax.diffusion.tiling import Grid

_CHUNK = 128  # pixels; each canvas begins at a multiple
_LEAST = 2**13  # pixels of a buffer
_NOISE_CHUNKS = 2048  # that are drawn at once

Size = tuple[int, int]


class Job(NamedTuple):
    """A radiograph to generate.

    Attributes:
        number: A number from which, with the seed, the radiograph's random numbers follow.
        request: The class, size and spacing of the radiograph.
        sizes: Height and width of each level, coarsest first.
    """

    number: int
    request: Request
    sizes: Sequence[Size]


class Layout(NamedTuple):
    """Places and conditions of canvases, by canvas; unused entries at the end repeat the last."""

    start: Int32[AnyArray, "canvases"]
    """The first pixel in the flat buffers."""
    level_size: Int32[AnyArray, "canvases 2"]
    first_tile: Int32[AnyArray, "canvases"]
    """The number of the first tile, counted row by row through all canvases; then of all tiles."""
    coarser_start: Int32[AnyArray, "canvases"]
    """The first pixel in the flat buffer of the coarser level."""
    coarser_size: Int32[AnyArray, "canvases 2"]
    number: Int32[AnyArray, "canvases"]
    """The number from which random numbers follow."""
    size: Int32[AnyArray, "canvases 2"]
    label: Int32[AnyArray, "canvases"]
    spacing_mm: Float32[AnyArray, "canvases"]
    canvas: Int32[AnyArray, "chunks"]
    """The canvas of each chunk of the flat buffers."""


def lay_out(jobs: Sequence[Job], level: int, grid: Grid, coarser_starts: dict[int, int]) -> Layout:
    """Places the canvases of a level, on the host.

    Args:
        jobs: Radiographs to place.
        level: The number of the level.
        grid: The tiles along a side.
        coarser_starts: The first pixel of each radiograph in the buffer of the coarser level, by
            the radiograph's number; empty at level 0.
    """
    sizes = np.array([job.sizes[level] for job in jobs], np.int32)
    chunks = -(-sizes.prod(axis=1) // _CHUNK)
    tiles = grid.count(sizes).prod(axis=1)
    # A row of a tile is read as a whole, so there is one beyond the last canvas.
    pixels = int(chunks.sum()) * _CHUNK + grid.patch
    length = _rounded(max(pixels, (int(tiles.sum()) + 1) * grid.period**2))
    canvas = np.repeat(np.arange(len(jobs)), chunks)

    def padded(values: list | np.ndarray, dtype: type = np.int32) -> np.ndarray:
        values = np.asarray(values, dtype)
        unused = _most_tiles(length, grid) - len(values)
        return np.concatenate([values, np.repeat(values[-1:], unused, axis=0)])

    return Layout(
        start=padded((chunks.cumsum() - chunks) * _CHUNK),
        level_size=padded(sizes),
        first_tile=padded(np.append(0, tiles.cumsum())),
        coarser_start=padded([coarser_starts.get(job.number, 0) for job in jobs]),
        coarser_size=padded([job.sizes[max(level - 1, 0)] for job in jobs]),
        number=padded([job.number for job in jobs]),
        size=padded([(job.request.height, job.request.width) for job in jobs]),
        label=padded([LABELS.index(job.request.label) for job in jobs]),
        spacing_mm=padded([job.request.spacing_mm for job in jobs], np.float32),
        canvas=np.pad(canvas, (0, length // _CHUNK - len(canvas)), mode="edge").astype(np.int32),
    )


def to_device(layout: Layout) -> Layout:
    """Copies a layout to the first device of this process."""
    return jax.device_put(layout, jax.local_devices()[0])


def no_estimates(
    layout: Layout, batch_size: int, grid: Grid
) -> Float[Array, "batches batch patch patch"]:
    """A buffer for the estimates of all tiles."""
    batches = -(-_most_tiles(_length(layout), grid) // batch_size)
    shape = batches, batch_size, grid.patch, grid.patch
    return jnp.zeros(shape, device=jax.local_devices()[0])


def no_guess(layout: Layout) -> Float[Array, "pixels"]:
    """Zeros, from which level 0 starts."""
    return jnp.zeros(_length(layout), device=jax.local_devices()[0])


@jax.jit
def double(coarser: Float[Array, "coarser_pixels"], layout: Layout) -> Float[Array, "pixels"]:
    """Interpolates the coarser level to twice the resolution; see `pyramid.double`."""
    fields = layout.coarser_start, *layout.coarser_size.T
    y, x, _, (first, height, width) = _pixels(layout, *fields)

    def neighbours(position: Int[Array, "..."], length: Int[Array, "..."]):
        nearest = position // 2
        other = jnp.clip(nearest + 2 * (position % 2) - 1, 0, length - 1)
        return (nearest, 0.75), (other, 0.25)

    guess = jnp.zeros(y.shape, jnp.float32)
    for row, row_weight in neighbours(y, height):
        for column, column_weight in neighbours(x, width):
            pixels = coarser.at[first + row * width + column].get(mode="clip")
            guess += row_weight * column_weight * pixels
    return guess.ravel()


@jax.jit
def add_noise(
    guess: Float[Array, "pixels"],
    layout: Layout,
    key: Key[Array, ""],
    level: Int[ArrayLike, ""],
    purpose: Int[ArrayLike, ""],
    sigma: Float[ArrayLike, ""],
) -> Float[Array, "pixels"]:
    """Adds normal noise that follows from the other arguments, the canvas and the pixel.

    Args:
        guess: Pixels without noise.
        layout: Places of the canvases, with the radiographs' numbers.
        key: Key of the seed.
        level: The number of the level.
        purpose: A number that differs between independent noises.
        sigma: Standard deviation of the noise.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, level), purpose)
    first = jnp.arange(len(layout.canvas)) * _CHUNK - layout.start[layout.canvas]

    def noise(chunk: tuple[Int[Array, ""], Int[Array, ""]]) -> Float[Array, "chunk"]:
        number, first = chunk
        key_of_run = jax.random.fold_in(jax.random.fold_in(key, number), first)
        return jax.random.normal(key_of_run, (_CHUNK,))

    # Parts that fit into a processor's cache take a third of the time, and less memory.
    chunks = layout.number[layout.canvas], first
    by_chunk = jax.lax.map(noise, chunks, batch_size=_NOISE_CHUNKS)
    return guess + sigma * by_chunk.ravel()


@partial(jax.jit, static_argnames=("batch_size", "grid"))
def cut(
    x: Float[Array, "pixels"],
    context: Float[Array, "pixels"],
    layout: Layout,
    first: Int[ArrayLike, ""],
    level: Int[ArrayLike, ""],
    sigma: Float[ArrayLike, ""],
    context_sigma: Float[ArrayLike, ""],
    *,
    batch_size: int,
    grid: Grid,
) -> tuple[Float[Array, "batch patch patch 1"], Float[Array, "batch"], Conditioning]:
    """Returns a batch of tiles, filled up with copies of the last one, as denoisers take them.

    Tiles are 0 outside of the radiograph. Samples are never mirror images.

    Args:
        x: Noisy pixels of all canvases.
        context: The coarser level with noise.
        layout: Places of the canvases.
        first: The number of the first tile.
        level: The number of the level.
        sigma: The noise level of x.
        context_sigma: The noise level of the context.
        batch_size: The number of tiles.
        grid: The tiles along a side.
    """
    number = jnp.minimum(first + jnp.arange(batch_size), layout.first_tile[-1] - 1)
    canvas = jnp.searchsorted(layout.first_tile, number, side="right") - 1
    level_size = layout.level_size[canvas]
    columns = grid.count(level_size[:, 1])
    row_and_column = jnp.stack(jnp.divmod(number - layout.first_tile[canvas], columns), axis=-1)
    origin = grid.origin(row_and_column, level_size)
    side = jnp.arange(grid.patch)
    y, x_first = origin[:, :1] + side, origin[:, 1:]
    row_starts = layout.start[canvas, None] + y * level_size[:, 1:] + x_first
    inside = (y < level_size[:, :1])[:, :, None] & (x_first + side < level_size[:, 1:])[:, None, :]

    def tiles(buffer: Float[Array, "pixels"]) -> Float[Array, "batch patch patch 1"]:
        def row(start: Int[AnyArray, ""]) -> Float[Array, "patch"]:
            return jax.lax.dynamic_slice(buffer, (start,), (grid.patch,))

        return jnp.where(inside, jax.vmap(jax.vmap(row))(row_starts), 0)[..., None]

    conditioning = Conditioning(
        context=tiles(context),
        context_sigma=jnp.full(batch_size, context_sigma, jnp.float32),
        origin=origin,
        level_size=level_size,
        size=layout.size[canvas],
        level=jnp.full(batch_size, level, jnp.int32),
        label=layout.label[canvas],
        spacing_mm=layout.spacing_mm[canvas],
        mirrored=jnp.zeros(batch_size, jnp.int32),
    )
    sigmas = jnp.full(batch_size, sigma, jnp.float32)
    return tiles(x), sigmas, conditioning


@partial(jax.jit, donate_argnums=0)
def store(
    estimates: Float[Array, "batches batch patch patch"],
    D: Float[Array, "batch patch patch 1"],
    n: Int[ArrayLike, ""],
) -> Float[Array, "batches batch patch patch"]:
    """Replaces the estimates of batch n."""
    return jax.lax.dynamic_update_index_in_dim(estimates, D[..., 0], n, axis=0)


@partial(jax.jit, static_argnames="grid")
def blend(
    estimates: Float[Array, "batches batch patch patch"], layout: Layout, *, grid: Grid
) -> Float[Array, "pixels"]:
    """Returns the blended estimate of each pixel, from the four tiles that may cover it."""
    flat = estimates.ravel()
    y, x, size, (first_tile,) = _pixels(layout, layout.first_tile)
    height, width = size
    columns = grid.count(width)
    blended = jnp.zeros(y.shape, jnp.float32)
    for row in grid.covers(y, height):
        for column in grid.covers(x, width):
            tile = first_tile + row.tile * columns + column.tile
            tile_row = tile * grid.patch + y - grid.origin(row.tile, height)
            pixel = tile_row * grid.patch + x - grid.origin(column.tile, width)
            blended += row.weight * column.weight * flat.at[pixel].get(mode="clip")
    return blended.ravel()


@jax.jit
def is_finite(x: Float[Array, "pixels"]) -> Bool[Array, ""]:
    """Whether all pixels are finite."""
    return jnp.isfinite(x).all()


@jax.jit
def to_grey(x: Float[Array, "pixels"]) -> UInt16[Array, "pixels"]:
    """Maps -1..1 to grey values; see `radiograph.to_grey`."""
    return radiograph.to_grey(x)


def _rounded(pixels: int) -> int:
    """The next of the lengths 1, 1.5, 2, 3, 4, 6, ... times the least one."""
    power = _LEAST << (-(-pixels // _LEAST) - 1).bit_length()
    return 3 * power // 4 if _LEAST < pixels <= 3 * power // 4 else power


def _most_tiles(pixels: int, grid: Grid) -> int:
    """The number of tiles, or canvases, for which buffers of so many pixels have room."""
    return pixels // grid.period**2


def _length(layout: Layout) -> int:
    """The number of pixels of a flat buffer."""
    return len(layout.canvas) * _CHUNK


def _pixels(layout: Layout, *fields: Int[AnyArray, "canvases"]):
    """Row and column of each pixel in its canvas; the canvas' height and width; its fields.

    The first two have the shape (chunks, _CHUNK), the others (chunks, 1).
    """
    canvas = layout.canvas
    first = jnp.arange(len(canvas)) * _CHUNK - layout.start[canvas]
    height, width = layout.level_size[canvas].T
    by_chunk = (*jnp.divmod(first, width), height, width, *(field[canvas] for field in fields))
    # The compiler would compute these again for each pixel.
    y, x, height, width, *others = (v[:, None] for v in jax.lax.optimization_barrier(by_chunk))
    x = x + jnp.arange(_CHUNK)
    # Exact, as there are few rows in a chunk, and far faster than to divide integers.
    rows = jnp.floor((x + 0.5) / width).astype(jnp.int32)
    return y + rows, x - rows * width, (height, width), others
