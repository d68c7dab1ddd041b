"""Radiographs of any size from a patch denoiser.

Level 0 is drawn from noise; every further level starts from the one before, interpolated to
twice the resolution. A level larger than a patch is denoised in overlapping tiles, *all of them
at every step of the solver*, and their estimates are blended by a smooth window, so there are
no seams. Noise belongs to the pixels of a radiograph and not to tiles: the result does not
depend on how tiles are batched.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float32, UInt16
from tqdm import tqdm

from femur_jax.config import Config
from femur_jax.data.loader import last_origin
from femur_jax.data.pyramid import double, level_sizes
from femur_jax.data.radiograph import LABELS
from femur_jax.data.requests import Request
from femur_jax.diffusion.patches import Place


@runtime_checkable
class TileDenoiser(Protocol):
    """Estimates clean tiles; compiled for one batch size."""

    def __call__(
        self,
        x: Float32[np.ndarray, "batch patch patch 1"],
        sigma: Float32[np.ndarray, "batch"],
        context: Float32[np.ndarray, "batch patch patch 1"],
        context_sigma: Float32[np.ndarray, "batch"],
        place: Place,
    ) -> Float[Array, "batch patch patch 1"]: ...


def karras_sigmas(
    sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0
) -> Float[np.ndarray, "steps_and_zero"]:
    """Noise levels of a solver, ending in 0 (Karras et al. 2022, equation 5)."""
    ramp = np.linspace(0, 1, steps)
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.append((ends[0] + ramp * (ends[1] - ends[0])) ** rho, 0.0)


def heun(
    denoise: Callable[[Float[np.ndarray, "n"], float], Float[np.ndarray, "n"]],
    x: Float[np.ndarray, "n"],
    sigmas: Float[np.ndarray, "steps_and_zero"],
) -> Float[np.ndarray, "n"]:
    """Integrates dx/dsigma = (x - D(x; sigma)) / sigma with Heun's method.

    Karras et al. 2022, algorithm 1: second order, but Euler for the last step, to sigma = 0.

    Args:
        denoise: D.
        x: Drawn at sigmas[0].
        sigmas: Falling, the last one 0.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        slope = (x - denoise(x, sigma)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return x


def sample(
    denoise: TileDenoiser,
    requests: Sequence[Request],
    config: Config,
    *,
    patch: int,
    seed: int,
    levels: int | None = None,
    progress: bool = False,
) -> Iterator[UInt16[np.ndarray, "height width"]]:
    """Makes radiographs, in the order of the requests.

    Args:
        denoise: The model.
        requests: Sizes and labels.
        config: `sigma_max`, `sigma_min`, `steps` of level 0; `finer_sigma_max`, `finer_steps`
            of all others; `context_sigma`, the noise put on the coarser level; `tile_batch`,
            tiles denoised at once; `group`, radiographs made together.
        patch: Side of a patch.
        seed: The same one gives the same radiographs.
        levels: Ends after so many levels, with smaller radiographs than requested.
        progress: Shows a bar.
    """
    canvases = [Canvas(request, patch, seed, n, levels) for n, request in enumerate(requests)]
    groups = [canvases[n : n + config.group] for n in range(0, len(canvases), config.group)]
    total = sum(_evaluations(canvas, config) for canvas in canvases)
    with tqdm(desc="sample", total=total, unit="tile", disable=not progress) as bar:
        for group in groups:
            for level in range(max(len(canvas.sizes) for canvas in group)):
                active = [canvas for canvas in group if level < len(canvas.sizes)]
                _sample_level(denoise, active, level, config, bar)
            yield from (canvas.pixels() for canvas in group)


def _sample_level(
    denoise: TileDenoiser, canvases: list["Canvas"], level: int, config: Config, bar: tqdm
) -> None:
    """Brings all canvases from the level before to this one."""
    steps, sigma_max = config.finer_steps, config.finer_sigma_max
    if level == 0:
        steps, sigma_max = config.steps, config.sigma_max
    sigmas = karras_sigmas(sigma_max, config.sigma_min, steps)
    for canvas in canvases:
        canvas.begin(level, config.context_sigma)
    tiles = [(canvas, origin) for canvas in canvases for origin in canvas.origins]
    bounds = np.cumsum([canvas.x.size for canvas in canvases])[:-1]

    def denoise_all(x: Float[np.ndarray, "n"], sigma: float) -> Float[np.ndarray, "n"]:
        for canvas, part in zip(canvases, np.split(x, bounds), strict=True):
            canvas.x = part.reshape(canvas.x.shape)
            canvas.estimate.fill(0)
        for first in range(0, len(tiles), config.tile_batch):
            batch = tiles[first : first + config.tile_batch]
            padded = [batch[min(n, len(batch) - 1)] for n in range(config.tile_batch)]
            count = len(padded)
            D = denoise(
                np.stack([canvas.cut(canvas.x, origin) for canvas, origin in padded]),
                np.full(count, sigma, np.float32),
                np.stack([canvas.cut(canvas.context, origin) for canvas, origin in padded]),
                np.full(count, config.context_sigma, np.float32),
                _stack_places([canvas.place(origin) for canvas, origin in padded]),
            )
            for (canvas, origin), tile in zip(batch, np.asarray(D), strict=False):
                canvas.add(origin, tile[..., 0])
            bar.update(len(batch))
        return np.concatenate([canvas.estimate.ravel() for canvas in canvases])

    noise = [sigma_max * canvas.noise("start", canvas.x.shape) for canvas in canvases]
    start = [canvas.x + n for canvas, n in zip(canvases, noise, strict=True)]
    x = heun(denoise_all, np.concatenate([s.ravel() for s in start]), sigmas)
    for canvas, part in zip(canvases, np.split(x, bounds), strict=True):
        canvas.x = part.reshape(canvas.x.shape)


class Canvas:
    """One radiograph in the making, in units of -1..1.

    Attributes:
        patch: Side of a tile.
        sizes: Height and width of each level.
        origins: First row and column of each tile of the level at hand.
        x: The level at hand.
        context: The coarser level, interpolated and with noise; zeros at level 0.
        estimate: The blended estimate that `add` builds up.
    """

    def __init__(self, request: Request, patch: int, seed: int, number: int, levels: int | None):
        self.sizes = level_sizes(request.height, request.width, patch)[:levels]
        self.patch = patch
        self._request, self._key = request, (seed, number)
        self._level = 0

    def begin(self, level: int, context_sigma: float) -> None:
        """Prepares a level: `x` becomes the interpolated coarser one, or zeros."""
        self._level = level
        height, width = self.sizes[level]
        if level:
            self.x = double(self.x)[:height, :width]
            noise = self.noise("context", (height, width))
            self.context = self.x + np.float32(context_sigma) * noise
        else:
            self.x = self.context = np.zeros((height, width), np.float32)
        self.estimate = np.zeros((height, width), np.float32)
        places = [tile_origins(side, self.patch) for side in (height, width)]
        self.origins = [(y, x) for y in places[0] for x in places[1]]
        self._weights = [blending_weights(side, self.patch) for side in (height, width)]

    def noise(self, purpose: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """Normal noise that depends on the seed, the radiograph, the level and the purpose."""
        key = (*self._key, self._level, ("start", "context").index(purpose))
        return np.random.default_rng(key).standard_normal(shape, np.float32)

    def cut(
        self, field: Float32[np.ndarray, "height width"], origin: tuple[int, int]
    ) -> Float32[np.ndarray, "patch patch 1"]:
        """One tile; zeros beyond the border."""
        y, x = origin
        part = field[y : y + self.patch, x : x + self.patch]
        tile = np.zeros((self.patch, self.patch, 1), np.float32)
        tile[: part.shape[0], : part.shape[1], 0] = part
        return tile

    def add(self, origin: tuple[int, int], tile: Float32[np.ndarray, "patch patch"]) -> None:
        """Blends a tile's estimate in."""
        y, x = origin
        part = self.estimate[y : y + self.patch, x : x + self.patch]
        rows, columns = (
            weights[start] for weights, start in zip(self._weights, origin, strict=True)
        )
        weighted = tile * rows[:, None] * columns[None, :]
        part += weighted[: part.shape[0], : part.shape[1]]

    def place(self, origin: tuple[int, int]) -> Place:
        """Where a tile lies."""
        request = self._request
        return Place(
            origin=np.array(origin, np.int32),
            level_size=np.array(self.sizes[self._level], np.int32),
            size=np.array((request.height, request.width), np.int32),
            level=np.array(self._level, np.int32),
            label=np.array(LABELS.index(request.label), np.int32),
            spacing_mm=np.array(request.spacing_mm, np.float32),
        )

    def pixels(self) -> UInt16[np.ndarray, "height width"]:
        """The finished radiograph."""
        return np.round((np.clip(self.x, -1, 1) + 1) * 32767.5).astype(np.uint16)


def tile_origins(length: int, patch: int) -> list[int]:
    """Even places of tiles that overlap by a quarter and cover a side of `length` pixels."""
    last = last_origin(length, patch)
    return [*range(0, last, 3 * patch // 8 * 2), last]


def blending_weights(length: int, patch: int) -> dict[int, Float32[np.ndarray, "patch"]]:
    """The weights of each tile along one side; at every pixel they add up to 1.

    They follow sin^2, which is smooth where tiles meet.
    """
    window = np.sin(np.pi * (np.arange(patch) + 0.5) / patch) ** 2
    origins = tile_origins(length, patch)
    total = np.zeros(origins[-1] + patch)
    for origin in origins:
        total[origin : origin + patch] += window
    return {o: (window / total[o : o + patch]).astype(np.float32) for o in origins}


def _stack_places(places: list[Place]) -> Place:
    return Place(*(np.stack(field) for field in zip(*places, strict=True)))


def _evaluations(canvas: Canvas, config: Config) -> int:
    """Tiles that the network will see for a canvas."""
    total = 0
    for level, size in enumerate(canvas.sizes):
        steps = config.finer_steps if level else config.steps
        tiles = math.prod(len(tile_origins(side, canvas.patch)) for side in size)
        total += (2 * steps - 1) * tiles
    return total
