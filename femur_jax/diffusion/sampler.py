"""Radiographs of any size from a patch denoiser.

Level 0 is drawn from noise; every further level starts from the one before, interpolated to
twice the resolution. A level larger than a patch is denoised in tiles, *all of them at every step
of the solver*, and their estimates are blended. Noise belongs to the pixels of a radiograph and not
to tiles: it follows from the seed, the radiograph's number, the level and its purpose.

Everything stays on the devices until a radiograph is finished. Radiographs are solved in groups of
as many as have `megapixels` together; a group reaches its finest level before the next one starts,
so that memory does not grow with the number of radiographs.
"""

import math
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, UInt16
from ml_collections import ConfigDict

from femur_jax.diffusion import canvases
from femur_jax.diffusion.canvases import Job
from femur_jax.diffusion.conditioning import Conditioning
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.tiling import Grid
from femur_jax.errors import UserError
from femur_jax.progress import Progress


@runtime_checkable
class TileDenoiser(Protocol):
    """Estimates clean tiles of one level; compiled for one batch size."""

    def __call__(
        self,
        level: int,
        x: Float[Array, "batch patch patch 1"],
        sigma: Float[Array, "batch"],
        conditioning: Conditioning,
    ) -> Float[Array, "batch patch patch 1"]: ...


class _Solved(NamedTuple):
    """Radiographs at one level."""

    starts: dict[int, int]
    """First pixels by the radiographs' numbers."""
    x: Float[Array, "pixels"]


class Sampler:
    """Generates radiographs with one denoiser."""

    def __init__(self, denoise: TileDenoiser, config: ConfigDict, *, patch: int):
        """Keeps a denoiser and its settings.

        Args:
            denoise: The trained model with its guidance.
            config: The config's `sample`: `seed`; `solver`, `sigma_min`; `sigma_max` and `steps`
                by level, where the last value holds for all finer levels; `context_sigma`, the
                noise on the coarser level; `overlap` of tiles; `tile_batch`, the number of tiles
                that each device takes at once; `megapixels`, solved together.
            patch: The side of a tile.

        Raises:
            UserError: A setting is out of range.
        """
        _check(config)
        self._denoise, self._config = denoise, config
        self._grid = Grid.of(patch, config.overlap)
        self._batch_size = config.tile_batch * jax.local_device_count()
        self._solver = SOLVERS[config.solver]
        self._key = jax.random.key(config.seed)

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
        total = sum(self._cost(job, 0) for job in jobs)
        with Progress(
            desc="sample", total=total, unit="px", unit_scale=True, disable=not progress
        ) as bar:
            yield from self._refine(jobs, 0, None, finished, bar)

    def _refine(
        self,
        jobs: Sequence[Job],
        level: int,
        coarser: _Solved | None,
        finished: Container[int],
        bar: Progress,
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Brings radiographs from the coarser level to their last, in groups."""
        for group in _groups(jobs, level, self._config.megapixels):
            if all(job.number in finished for job in group):
                bar.update(sum(self._cost(job, level) for job in group))
                continue
            solved = self._solve(group, level, coarser, bar)
            rest = [job for job in group if level < len(job.sizes) - 1]
            if len(rest) < len(group):
                grey = np.asarray(canvases.to_grey(solved.x))
                for job in group:
                    if level == len(job.sizes) - 1:
                        start, size = solved.starts[job.number], job.sizes[level]
                        yield job.number, grey[start : start + math.prod(size)].reshape(size)
            if rest:
                yield from self._refine(rest, level + 1, solved, finished, bar)

    def _cost(self, job: Job, level: int) -> int:
        """The number of pixels to evaluate, from a level to the last."""
        sizes = job.sizes
        return sum(self._evaluations(n) * math.prod(sizes[n]) for n in range(level, len(sizes)))

    def _evaluations(self, level: int) -> int:
        return self._solver.evaluations(at_level(self._config.steps, level))

    def _solve(
        self, jobs: Sequence[Job], level: int, coarser: _Solved | None, bar: Progress
    ) -> _Solved:
        """Brings radiographs from the coarser level to this one."""
        config, grid, batch_size = self._config, self._grid, self._batch_size
        sigma_max, steps = at_level(config.sigma_max, level), at_level(config.steps, level)
        on_host = canvases.lay_out(jobs, level, grid, coarser.starts if coarser else {})
        tiles = int(on_host.first_tile[-1])
        pixels = sum(math.prod(job.sizes[level]) for job in jobs)
        layout = canvases.to_device(on_host)
        guess = canvases.double(coarser.x, layout) if coarser else canvases.no_guess(layout)
        x = canvases.add_noise(guess, layout, self._key, level, 0, sigma_max)
        context = guess
        if coarser:
            context = canvases.add_noise(guess, layout, self._key, level, 1, config.context_sigma)
        del guess
        estimates = canvases.no_estimates(layout, batch_size, grid)

        def denoise(x: Float[Array, "pixels"], sigma: float) -> Float[Array, "pixels"]:
            nonlocal estimates
            for n, first in enumerate(range(0, tiles, batch_size)):
                batch = canvases.cut(
                    x,
                    context,
                    layout,
                    first,
                    level,
                    sigma,
                    config.context_sigma,
                    batch_size=batch_size,
                    grid=grid,
                )
                estimates = canvases.store(estimates, self._denoise(level, *batch), n)
                done = min(first + batch_size, tiles)
                bar.update(pixels * done // tiles - pixels * first // tiles)
            return canvases.blend(estimates, layout, grid=grid)

        x = self._solver.solve(denoise, x, karras_sigmas(sigma_max, config.sigma_min, steps))
        if not canvases.is_finite(x):
            raise UserError(
                f"Level {level} of the radiographs is not finite: the model has not learned it, or "
                "the guidance is too strong; train longer, or lower config.sample.guidance."
            )
        starts = on_host.start[: len(jobs)].tolist()
        return _Solved({job.number: n for job, n in zip(jobs, starts, strict=True)}, x)


def at_level(values: Sequence, level: int):
    """Returns the value for a level; the last one holds for all finer levels."""
    return values[min(level, len(values) - 1)]


def _check(config: ConfigDict) -> None:
    if config.tile_batch < 1:
        raise UserError(f"config.sample.tile_batch is {config.tile_batch}; give 1 or more.")
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


def _groups(jobs: Sequence[Job], level: int, megapixels: float) -> Iterator[Sequence[Job]]:
    """Neighbours with at most so many megapixels together at a level, but at least one."""
    group, filled = [], 0.0
    for job in jobs:
        added = math.prod(job.sizes[level]) / 1e6
        if group and filled + added > megapixels:
            yield group
            group, filled = [], 0.0
        group.append(job)
        filled += added
    if group:
        yield group
