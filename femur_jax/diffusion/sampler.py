"""Radiographs of any size from a patch denoiser.

Level 0 is drawn from noise; every further level starts from the one before, interpolated to
twice the resolution. A level larger than a patch is denoised in tiles, *all of them at every step
of the solver*, and their estimates are blended. Noise belongs to the pixels of a radiograph and not
to tiles: it follows from the seed, the radiograph's number, the level and its purpose.

Canvases lie on the host and tiles go to the devices, two batches ahead, so that the memory of
devices does not grow with radiographs. Radiographs are solved in groups of as many as have
`megapixels` together; a group reaches its finest level before the next one starts, so that the
memory of the host does not grow with the number of radiographs.
"""

import math
from collections import deque
from collections.abc import Container, Iterator, Sequence
from itertools import product
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float32, UInt16
from ml_collections import ConfigDict

from femur_jax.data.pyramid import double
from femur_jax.data.radiograph import LABELS, to_grey
from femur_jax.data.synthetic import Request
from femur_jax.diffusion.conditioning import Conditioning
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.tiling import Span, spans
from femur_jax.errors import UserError
from femur_jax.progress import Progress

_IN_FLIGHT = 2  # batches on the devices while the host cuts and blends others

_NOTHING = np.empty((0, 0), np.float32)

Size = tuple[int, int]


@runtime_checkable
class TileDenoiser(Protocol):
    """Estimates clean tiles of one level; compiled for one batch size.

    It may return before it is done.
    """

    def __call__(
        self,
        x: Float32[np.ndarray, "batch patch patch 1"],
        sigma: Float32[np.ndarray, "batch"],
        conditioning: Conditioning,
    ) -> Float[Array, "batch patch patch 1"]: ...


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


class Sampler:
    """Generates radiographs with one denoiser."""

    def __init__(self, denoise: TileDenoiser, config: ConfigDict, *, patch: int, batch_size: int):
        """Keeps a denoiser and its settings.

        Args:
            denoise: The trained model with its guidance.
            config: The config's `sample`: `seed`; `solver`, `sigma_min`; `sigma_max` and `steps`
                by level, where the last value holds for all finer levels; `context_sigma`, the
                noise on the coarser level; `overlap` of tiles; `megapixels`, solved together.
            patch: The side of a tile.
            batch_size: The number of tiles that the denoiser takes at once.

        Raises:
            UserError: A setting is out of range.
        """
        _check(config)
        if batch_size < 1:
            raise UserError("config.sample.tile_batch is below 1; give 1 or more.")
        self._denoise, self._config = denoise, config
        self._patch, self._batch_size = patch, batch_size
        self._solver = SOLVERS[config.solver]

    def sample(
        self, jobs: Sequence[Job], *, finished: Container[int] = (), progress: bool = False
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Generates radiographs and gives each with its number, as they are finished.

        Args:
            jobs: The radiographs to generate.
            finished: Numbers of the radiographs that exist. A group with nothing else is skipped;
                in other groups they are generated again, so that the rest stays the same.
            progress: Whether to show a progress bar.

        Raises:
            UserError: A radiograph is not finite.
        """
        canvases = [_Canvas(job, self._config.seed) for job in jobs]
        total = sum(self._cost(canvas, 0) for canvas in canvases)
        with Progress(
            desc="sample", total=total, unit="px", unit_scale=True, disable=not progress
        ) as bar:
            yield from self._refine(canvases, 0, finished, bar)

    def _refine(
        self, canvases: Sequence["_Canvas"], level: int, finished: Container[int], bar: Progress
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Brings canvases from the previous level to their last."""
        for group in _groups(canvases, level, self._config.megapixels):
            if all(canvas.job.number in finished for canvas in group):
                bar.update(sum(self._cost(canvas, level) for canvas in group))
                continue
            self._solve(group, level, bar)
            for canvas in group:
                if level == len(canvas.job.sizes) - 1:
                    yield canvas.job.number, canvas.take()
            rest = [canvas for canvas in group if level < len(canvas.job.sizes) - 1]
            yield from self._refine(rest, level + 1, finished, bar)

    def _cost(self, canvas: "_Canvas", level: int) -> int:
        """The number of pixels to evaluate, from a level to the last."""
        sizes = canvas.job.sizes
        return sum(self._evaluations(n) * math.prod(sizes[n]) for n in range(level, len(sizes)))

    def _evaluations(self, level: int) -> int:
        return self._solver.evaluations(at_level(self._config.steps, level))

    def _solve(self, canvases: Sequence["_Canvas"], level: int, bar: Progress) -> None:
        """Brings canvases from the previous level to this one."""
        config = self._config
        sigma_max, steps = at_level(config.sigma_max, level), at_level(config.steps, level)
        sizes = [canvas.job.sizes[level] for canvas in canvases]
        bounds = np.cumsum([height * width for height, width in sizes])

        def pictures(flat: Float32[np.ndarray, "n"]) -> list[Float32[np.ndarray, "_ _"]]:
            pieces = np.split(flat, bounds[:-1])
            return [piece.reshape(size) for piece, size in zip(pieces, sizes, strict=True)]

        def denoise(x: Float32[np.ndarray, "n"], sigma: float) -> Float32[np.ndarray, "n"]:
            estimate = np.zeros_like(x)
            tiles = [
                _Tile(canvas, noisy, blended, rows, columns)
                for canvas, noisy, blended in zip(
                    canvases, pictures(x), pictures(estimate), strict=True
                )
                for rows, columns in product(
                    *(spans(n, self._patch, overlap=config.overlap) for n in noisy.shape)
                )
            ]
            self._denoise_tiles(tiles, sigma, bar)
            return estimate

        x = np.empty(bounds[-1], np.float32)
        for canvas, start in zip(canvases, pictures(x), strict=True):
            canvas.start_level(level, config.context_sigma)
            start[:] = canvas.guess + sigma_max * canvas.noise("start", start.shape)
        x = self._solver.solve(denoise, x, karras_sigmas(sigma_max, config.sigma_min, steps))
        if not np.isfinite(x).all():
            raise UserError(
                f"Level {level} of the radiographs is not finite: the model has not learned it, or "
                "the guidance is too strong; train longer, or lower config.sample.guidance."
            )
        for canvas, picture in zip(canvases, pictures(x), strict=True):
            canvas.finish_level(picture)

    def _denoise_tiles(self, tiles: Sequence["_Tile"], sigma: float, bar: Progress) -> None:
        """Denoises tiles and adds their estimates to those of their canvases."""
        pending: deque[tuple[Sequence[_Tile], Array]] = deque()
        for first in range(0, len(tiles), self._batch_size):
            batch = tiles[first : first + self._batch_size]
            pending.append((batch, self._start(batch, sigma)))
            if len(pending) > _IN_FLIGHT:
                self._blend(*pending.popleft(), bar)
        while pending:
            self._blend(*pending.popleft(), bar)

    def _start(self, batch: Sequence["_Tile"], sigma: float) -> Array:
        """Starts to denoise a batch of tiles, filled up with copies of the last one."""
        count = self._batch_size
        padded = [batch[min(n, len(batch) - 1)] for n in range(count)]
        conditionings = [
            tile.canvas.conditioning(tile.origin, self._patch, self._config.context_sigma)
            for tile in padded
        ]
        D = self._denoise(
            np.stack([_cut(tile.noisy, tile.origin, self._patch) for tile in padded]),
            np.full(count, sigma, np.float32),
            Conditioning(*(np.stack(field) for field in zip(*conditionings, strict=True))),
        )
        D.copy_to_host_async()
        return D

    def _blend(self, batch: Sequence["_Tile"], D: Array, bar: Progress) -> None:
        """Adds the estimates of a batch of tiles to those of their canvases."""
        for tile, estimate in zip(batch, np.asarray(D)[..., 0], strict=False):
            y, x = tile.origin
            window = tile.blended[y : y + self._patch, x : x + self._patch]
            height, width = window.shape
            weights = tile.rows.weights[:height, None] * tile.columns.weights[:width]
            window += weights * estimate[:height, :width]
            bar.update(round(float(weights.sum())))


class _Canvas:
    """One unfinished radiograph, in units of -1..1.

    Attributes:
        job: The radiograph to generate.
        level: The number of the current level.
        guess: The coarser level, interpolated to the current one; zeros at level 0.
        context: The guess with noise; empty at level 0.
    """

    def __init__(self, job: Job, seed: int):
        self.job = job
        self.guess = self.context = self._newest = _NOTHING
        self._seed = seed

    def start_level(self, level: int, context_sigma: float) -> None:
        """Prepares the guess and the context of a level."""
        self.level = level
        height, width = self.job.sizes[level]
        if level == 0:
            self.guess = np.zeros((height, width), np.float32)
            return
        self.guess = double(self._newest)[:height, :width]
        self.context = self.guess + context_sigma * self.noise("context", self.guess.shape)

    def finish_level(self, picture: Float32[np.ndarray, "_ _"]) -> None:
        """Keeps the finished level and releases all that it needed."""
        self._newest = picture.copy()  # a view would keep the other pictures of its group in memory
        self.guess = self.context = _NOTHING

    def noise(self, purpose: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """Returns normal noise that follows from seed, radiograph, current level and purpose."""
        key = (self._seed, self.job.number, self.level, ("start", "context").index(purpose))
        return np.random.default_rng(key).standard_normal(shape, np.float32)

    def conditioning(
        self, origin: tuple[int, int], patch: int, context_sigma: float
    ) -> Conditioning:
        """Returns the conditioning of one tile; samples are never mirror images."""
        request = self.job.request
        return Conditioning(
            context=_cut(self.context, origin, patch),
            context_sigma=np.array(context_sigma, np.float32),
            origin=np.array(origin, np.int32),
            level_size=np.array(self.guess.shape, np.int32),
            size=np.array((request.height, request.width), np.int32),
            level=np.array(self.level, np.int32),
            label=np.array(LABELS.index(request.label), np.int32),
            spacing_mm=np.array(request.spacing_mm, np.float32),
            mirrored=np.zeros((), np.int32),
        )

    def take(self) -> UInt16[np.ndarray, "height width"]:
        """Returns the finished radiograph and releases it here."""
        pixels, self._newest = to_grey(self._newest), _NOTHING
        return pixels


class _Tile(NamedTuple):
    """The origin of a tile, the picture it is cut from, and the estimate it contributes to."""

    canvas: _Canvas
    noisy: Float32[np.ndarray, "_ _"]
    blended: Float32[np.ndarray, "_ _"]
    rows: Span
    columns: Span

    @property
    def origin(self) -> tuple[int, int]:
        return self.rows.origin, self.columns.origin


def at_level(values: Sequence, level: int):
    """Returns the value for a level; the last one holds for all finer levels."""
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


def _groups(
    canvases: Sequence[_Canvas], level: int, megapixels: float
) -> Iterator[Sequence[_Canvas]]:
    """Neighbours with at most so many megapixels together at a level, but at least one."""
    group, filled = [], 0.0
    for canvas in canvases:
        added = math.prod(canvas.job.sizes[level]) / 1e6
        if group and filled + added > megapixels:
            yield group
            group, filled = [], 0.0
        group.append(canvas)
        filled += added
    if group:
        yield group


def _cut(
    picture: Float32[np.ndarray, "_ _"], origin: tuple[int, int], patch: int
) -> Float32[np.ndarray, "patch patch 1"]:
    """A tile of a picture, zeros where there is no picture."""
    y, x = origin
    tile = np.zeros((patch, patch, 1), np.float32)
    inside = picture[y : y + patch, x : x + patch]
    tile[: inside.shape[0], : inside.shape[1], 0] = inside
    return tile
