"""Radiographs of any size from a patch denoiser.

Level 0 is drawn from noise; every further level starts from the one before, interpolated to
twice the resolution. A level larger than a patch is denoised in tiles, *all of them at every step
of the solver*, and their estimates are joined. Noise belongs to the pixels of a radiograph and not
to tiles: it follows from the seed, the radiograph's number, the level and what it is for.

Canvases lie on the host and tiles go to the devices, two batches ahead, so that the memory of
devices does not grow with radiographs. Levels are made in parts, of as many radiographs as have
`megapixels` together; a part goes on to its finest level before the next one begins, so that the
memory of the host does not grow with their number.
"""

import math
from collections import deque
from collections.abc import Container, Iterator, Sequence
from itertools import product
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float32, UInt16
from ml_collections import ConfigDict
from tqdm import tqdm

from femur_jax.data.loader import wide_context
from femur_jax.data.pyramid import double
from femur_jax.data.radiograph import LABELS
from femur_jax.data.synthetic import Request
from femur_jax.diffusion.patches import Place
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.tiling import Span, random_shifts, spans
from femur_jax.errors import UserError

_IN_FLIGHT = 2  # batches that devices have while the host cuts and joins others

_NOTHING = np.empty((0, 0), np.float32)

Size = tuple[int, int]


@runtime_checkable
class TileDenoiser(Protocol):
    """Estimates clean tiles; compiled for one batch size. It may return before it has finished."""

    def __call__(
        self,
        x: Float32[np.ndarray, "batch patch patch 1"],
        sigma: Float32[np.ndarray, "batch"],
        context: Float32[np.ndarray, "batch patch patch kinds"],
        context_sigma: Float32[np.ndarray, "batch"],
        place: Place,
    ) -> Float[Array, "batch patch patch 1"]: ...


class Job(NamedTuple):
    """A radiograph to be made.

    Attributes:
        number: Its random numbers follow from this and the seed.
        request: What it shall be.
        sizes: Height and width of each level, coarsest first.
    """

    number: int
    request: Request
    sizes: Sequence[Size]


class Sampler:
    """Makes radiographs with one denoiser."""

    def __init__(
        self,
        denoise: TileDenoiser,
        config: ConfigDict,
        *,
        patch: int,
        batch_size: int,
        wide: bool = False,
    ):
        """Takes a denoiser and how to use it.

        Args:
            denoise: The model.
            config: `seed`, of which everything random follows; `solver`, `sigma_min`; `sigma_max`
                and `steps` by level, of which the last holds for all finer ones;
                `context_sigma`, the noise put on the coarser level; `overlap` and `shift` of tiles;
                `megapixels`, solved together.
            patch: Side of a tile.
            batch_size: Tiles that the denoiser takes at once.
            wide: Shows the denoiser the wide context as well, see `loader.wide_context`.

        Raises:
            UserError: A setting is out of range.
        """
        _check(config)
        if batch_size < 1:
            raise UserError("config.sample.tile_batch is below 1; give 1 or more.")
        self._denoise, self._config = denoise, config
        self._patch, self._batch_size, self._wide = patch, batch_size, wide
        self._solver = SOLVERS[config.solver]

    def sample(
        self, jobs: Sequence[Job], *, finished: Container[int] = (), progress: bool = False
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Makes radiographs and gives each with its number, as they are finished.

        Args:
            jobs: What to make.
            finished: Numbers of those that exist. Nothing is made for them alone; some may be
                made again with others, so that the others become what they would have been.
            progress: Shows a bar.

        Raises:
            UserError: A radiograph is not finite.
        """
        canvases = [_Canvas(job, self._config.seed) for job in jobs]
        total = sum(self._cost(canvas, 0) for canvas in canvases)
        with tqdm(
            desc="sample", total=total, unit="px", unit_scale=True, disable=not progress
        ) as bar:
            yield from self._refine(canvases, 0, finished, bar)

    def _refine(
        self, canvases: Sequence["_Canvas"], level: int, finished: Container[int], bar: tqdm
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Brings canvases from the level before to their last."""
        for part in _parts(canvases, level, self._config.megapixels):
            if all(canvas.job.number in finished for canvas in part):
                bar.update(sum(self._cost(canvas, level) for canvas in part))
                continue
            self._solve(part, level, bar)
            for canvas in part:
                if level == len(canvas.job.sizes) - 1:
                    yield canvas.job.number, canvas.take()
            rest = [canvas for canvas in part if level < len(canvas.job.sizes) - 1]
            yield from self._refine(rest, level + 1, finished, bar)

    def _cost(self, canvas: "_Canvas", level: int) -> int:
        """Pixels to be evaluated from a level on."""
        sizes = canvas.job.sizes
        return sum(self._evaluations(n) * math.prod(sizes[n]) for n in range(level, len(sizes)))

    def _evaluations(self, level: int) -> int:
        return self._solver.evaluations(at_level(self._config.steps, level))

    def _solve(self, canvases: Sequence["_Canvas"], level: int, bar: tqdm) -> None:
        """Brings canvases from the level before to this one."""
        config = self._config
        sigma_max, steps = at_level(config.sigma_max, level), at_level(config.steps, level)
        sizes = [canvas.job.sizes[level] for canvas in canvases]
        bounds = np.cumsum([height * width for height, width in sizes])
        evaluation = 0

        def pictures(flat: Float32[np.ndarray, "n"]) -> list[Float32[np.ndarray, "_ _"]]:
            parts = np.split(flat, bounds[:-1])
            return [part.reshape(size) for part, size in zip(parts, sizes, strict=True)]

        def denoise(x: Float32[np.ndarray, "n"], sigma: float) -> Float32[np.ndarray, "n"]:
            nonlocal evaluation
            estimate = np.zeros_like(x)
            tiles = [
                _Tile(canvas, noisy, joined, *place)
                for canvas, noisy, joined in zip(
                    canvases, pictures(x), pictures(estimate), strict=True
                )
                for place in self._places(canvas, evaluation)
            ]
            self._denoise_tiles(tiles, sigma, bar)
            evaluation += 1
            return estimate

        x = np.empty(bounds[-1], np.float32)
        for canvas, start in zip(canvases, pictures(x), strict=True):
            canvas.begin(level, config.context_sigma)
            start[:] = canvas.guess + sigma_max * canvas.noise("start", start.shape)
        x = self._solver.solve(denoise, x, karras_sigmas(sigma_max, config.sigma_min, steps))
        if not np.isfinite(x).all():
            raise UserError(
                f"Level {level} of the radiographs is not finite: the model has not learned it, or "
                "the guidance is too strong; train longer, or lower config.sample.guidance."
            )
        for canvas, picture in zip(canvases, pictures(x), strict=True):
            canvas.finish(picture)

    def _places(self, canvas: "_Canvas", evaluation: int) -> Iterator[tuple[Span, Span]]:
        """Rows and columns of all tiles at one evaluation of the denoiser."""
        overlap, shifts = self._config.overlap, (0, 0)
        if self._config.shift:
            shifts = random_shifts(canvas.rng("shift", evaluation), self._patch, overlap=overlap)
        rows, columns = (
            spans(length, self._patch, overlap=overlap, shift=shift)
            for length, shift in zip(canvas.guess.shape, shifts, strict=True)
        )
        return product(rows, columns)

    def _denoise_tiles(self, tiles: Sequence["_Tile"], sigma: float, bar: tqdm) -> None:
        """Denoises tiles and adds them to the estimates of their canvases."""
        pending: deque[tuple[Sequence[_Tile], Array]] = deque()
        for first in range(0, len(tiles), self._batch_size):
            batch = tiles[first : first + self._batch_size]
            pending.append((batch, self._start(batch, sigma)))
            if len(pending) > _IN_FLIGHT:
                self._join(*pending.popleft(), bar)
        while pending:
            self._join(*pending.popleft(), bar)

    def _start(self, batch: Sequence["_Tile"], sigma: float) -> Array:
        count, patch = self._batch_size, self._patch
        padded = [batch[min(n, len(batch) - 1)] for n in range(count)]
        x = np.zeros((count, patch, patch, 1), np.float32)
        context = np.zeros((count, patch, patch, 1 + self._wide), np.float32)
        for n, tile in enumerate(padded):
            level = tile.canvas.level
            _cut(tile.noisy, tile.origin, x[n, :, :, 0])
            if level:
                _cut(tile.canvas.context, tile.origin, context[n, :, :, 0])
            if level and self._wide:
                _, origin = wide_context(level, tile.origin, patch)
                _cut(tile.canvas.wide, origin, context[n, :, :, 1])
        D = self._denoise(
            x,
            np.full(count, sigma, np.float32),
            context,
            np.full(count, self._config.context_sigma, np.float32),
            _stack([tile.canvas.place(tile.origin) for tile in padded]),
        )
        D.copy_to_host_async()
        return D

    def _join(self, batch: Sequence["_Tile"], D: Array, bar: tqdm) -> None:
        for tile, estimate in zip(batch, np.asarray(D)[..., 0], strict=False):
            y, x = tile.origin
            place = tile.joined[y : y + self._patch, x : x + self._patch]
            height, width = place.shape
            weights = tile.rows.weights[:height, None] * tile.columns.weights[:width]
            place += weights * estimate[:height, :width]
            bar.update(round(float(weights.sum())))


class _Canvas:
    """One radiograph in the making, in units of -1..1.

    Attributes:
        job: What it shall become.
        levels: Those that are finished, coarsest first.
        level: The one at hand.
        guess: The coarser level, interpolated to the one at hand; zeros at level 0.
        context: The same with noise.
        wide: The level that `loader.wide_context` cuts from, with noise.
    """

    def __init__(self, job: Job, seed: int):
        self.job = job
        self.levels: list[Float32[np.ndarray, "_ _"]] = []
        self.guess = self.context = self.wide = _NOTHING
        self._seed = seed

    def begin(self, level: int, context_sigma: float) -> None:
        """Prepares a level."""
        self.level = level
        height, width = self.job.sizes[level]
        if level == 0:
            self.guess = np.zeros((height, width), np.float32)
            return
        wide = self.levels[wide_context(level, (0, 0), 0)[0]]
        self.guess = double(self.levels[-1])[:height, :width]
        self.context = self.guess + context_sigma * self.noise("context", self.guess.shape)
        self.wide = wide + context_sigma * self.noise("wide", wide.shape)

    def finish(self, picture: Float32[np.ndarray, "_ _"]) -> None:
        """Ends a level and lets go of all that it took."""
        self.levels.append(picture.copy())  # a view would hold on to the pictures beside it
        self.guess = self.context = self.wide = _NOTHING

    def noise(self, purpose: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """Normal noise for the level at hand."""
        return self.rng(purpose).standard_normal(shape, np.float32)

    def rng(self, purpose: str, *more: int) -> np.random.Generator:
        """Random numbers that follow from the seed, the radiograph, the level and the purpose."""
        purposes = ("start", "context", "wide", "shift")
        key = (self._seed, self.job.number, self.level, purposes.index(purpose), *more)
        return np.random.default_rng(key)

    def place(self, origin: tuple[int, int]) -> Place:
        """Where a tile lies."""
        request = self.job.request
        return Place(
            origin=np.array(origin, np.int32),
            level_size=np.array(self.guess.shape, np.int32),
            size=np.array((request.height, request.width), np.int32),
            level=np.array(self.level, np.int32),
            label=np.array(LABELS.index(request.label), np.int32),
            spacing_mm=np.array(request.spacing_mm, np.float32),
        )

    def take(self) -> UInt16[np.ndarray, "height width"]:
        """The finished radiograph, of which nothing stays here."""
        x = self.levels[-1]
        self.levels.clear()
        return np.round((np.clip(x, -1, 1) + 1) * 32767.5).astype(np.uint16)


class _Tile(NamedTuple):
    """Where a tile is cut from and where its estimate goes."""

    canvas: _Canvas
    noisy: Float32[np.ndarray, "_ _"]
    joined: Float32[np.ndarray, "_ _"]
    rows: Span
    columns: Span

    @property
    def origin(self) -> tuple[int, int]:
        return self.rows.origin, self.columns.origin


def at_level(values: Sequence, level: int):
    """The value for a level; the last holds for all finer ones."""
    return values[min(level, len(values) - 1)]


def _check(config: ConfigDict) -> None:
    if config.solver not in SOLVERS:
        raise UserError(
            f"config.sample.solver is {config.solver!r}; write one of {', '.join(SOLVERS)}."
        )
    if not 0 <= config.overlap <= 0.5:
        raise UserError(f"config.sample.overlap is {config.overlap}; give 0 to 0.5.")
    if not config.steps or min(config.steps) < 1:
        raise UserError(f"config.sample.steps is {config.steps}; give 1 or more for each level.")
    if not config.sigma_max or not min(config.sigma_max) > config.sigma_min > 0:
        raise UserError(
            f"config.sample.sigma_max is {config.sigma_max} and sigma_min {config.sigma_min}; "
            "give sigma_min above 0, and above it sigma_max for each level."
        )


def _parts(
    canvases: Sequence[_Canvas], level: int, megapixels: float
) -> Iterator[Sequence[_Canvas]]:
    """Neighbours with at most so many megapixels together at a level, but at least one."""
    part, filled = [], 0.0
    for canvas in canvases:
        own = math.prod(canvas.job.sizes[level]) / 1e6
        if part and filled + own > megapixels:
            yield part
            part, filled = [], 0.0
        part.append(canvas)
        filled += own
    if part:
        yield part


def _cut(
    picture: Float32[np.ndarray, "_ _"],
    origin: tuple[int, int],
    tile: Float32[np.ndarray, "patch patch"],
) -> None:
    """Fills a tile of zeros as far as there is a picture."""
    (y, x), (top, left) = origin, (max(-o, 0) for o in origin)
    part = picture[max(y, 0) : max(y + tile.shape[0], 0), max(x, 0) : max(x + tile.shape[1], 0)]
    tile[top : top + part.shape[0], left : left + part.shape[1]] = part


def _stack(places: Sequence[Place]) -> Place:
    return Place(*(np.stack(field) for field in zip(*places, strict=True)))
