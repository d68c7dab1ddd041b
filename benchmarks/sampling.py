"""Time and memory of sampling by size.

Each size is sampled in a separate process, which runs this file:

    python -m benchmarks.sampling FOLDER tiles|whole|trivial seconds|memory HEIGHT WIDTH
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.datasets import noise_dataset
from benchmarks.machine import ROOT, cpu
from benchmarks.records import Goal, Result, measurement
from configs.patch_diffusion import get_config
from femur_jax.data.pyramid import level_sizes
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request
from femur_jax.diffusion import edm
from femur_jax.diffusion.canvases import Job
from femur_jax.diffusion.conditioning import Conditioning
from femur_jax.diffusion.sampler import Sampler
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.task import DiffusionTask

_PATCH = 64
_SIZES = {0.25: (560, 448), 1.0: (1120, 896), 4.0: (2240, 1792), 15.0: (4330, 3464)}
"""Heights and widths by megapixels, all 1.25 times as high as wide."""
_LARGEST_WHOLE = 4.0


@measurement("s", Goal("<=", 60.0))
def example_seconds() -> Result:
    """Seconds that `femur example` takes for its four radiographs, with nothing compiled before."""
    with tempfile.TemporaryDirectory() as name:
        start_time = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "femur_jax.main", "example", f"--out={name}/example"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        return Result(value=time.monotonic() - start_time, device=cpu())


@measurement("", Goal("<=", 1.05))
def sampling_exponent() -> Result:
    """The exponent of sampling time against pixels; 1 is proportional.

    One radiograph each of 0.25, 1, 4 and 15 megapixels is sampled by a small U-Net on patches of
    64 x 64 pixels: all levels, with tiles that overlap by a quarter and are blended at each
    evaluation. The value is the slope of a straight line through the logarithms of seconds and
    pixels. In the details, the same network samples the last level of whole images.
    """
    tiles = _each_size("tiles", "seconds")
    whole = _each_size("whole", "seconds", most=_LARGEST_WHOLE)
    times = {mp: row["seconds"] for mp, row in tiles.items()}
    fit = linear_regression(np.log(list(times)).tolist(), np.log(list(times.values())).tolist())
    return Result(
        value=fit.slope,
        device=cpu(),
        details={f"s/MP at {mp:g} MP": s / mp for mp, s in times.items()}
        | {f"whole image, s/MP at {mp:g} MP": row["seconds"] / mp for mp, row in whole.items()}
        | {"evaluations a level": _config().sample.steps[-1]},
    )


@measurement("MB/MP", Goal("<=", 24.0), timed=False)
def sampling_memory_slope() -> Result:
    """Memory of sampling by size of the radiograph: on a GPU, this is the device's.

    The process's peak resident memory at 1, 4 and 15 megapixels; the value is the slope of a
    straight line. Four numbers a pixel are 16 bytes: the noisy pixels, the context, and the newest
    estimate and the one before. Tiles that overlap by a quarter are 7 bytes a pixel. Buffers are
    up to a third longer than radiographs.
    """
    tiles = _each_size("tiles", "memory", least=1.0)
    whole = _each_size("whole", "memory", least=1.0, most=_LARGEST_WHOLE)

    def slope(rows: dict[float, dict[str, float]]) -> float:
        return linear_regression(list(rows), [row["peak MB"] for row in rows.values()]).slope

    return Result(
        value=slope(tiles),
        device=cpu(),
        details={"whole image, MB/MP": slope(whole)}
        | {f"peak MB at {mp:g} MP": row["peak MB"] for mp, row in tiles.items()},
    )


@measurement("s", Goal("<=", 2.0))
def sampler_trivial_15mp_seconds() -> Result:
    """Time of everything but the network, for one radiograph of 15 megapixels.

    A denoiser that scales its input takes the place of the network. All levels of 256-pixel tiles
    are sampled, with 8 evaluations each; the details have the time at 0.25 megapixels.
    """
    times = _each_size("trivial", "seconds")
    return Result(
        value=times[15.0]["seconds"],
        device=cpu(),
        details={
            f"{what} at {mp:g} MP": times[mp][what]
            for mp in (0.25, 15.0)
            for what in ("seconds", "CPU seconds", "host seconds")
        },
    )


@measurement("", Goal("<=", 0.02))
def sampler_host_share() -> Result:
    """Share of sampling's time in which Python runs, with a small U-Net at 15 megapixels.

    CPU seconds of the thread that starts all programs, over the wall time. The U-Net is that of
    sampling_exponent, far cheaper than a useful one.
    """
    row = _each_size("tiles", "seconds", least=15.0)[15.0]
    return Result(value=row["host seconds"] / row["seconds"], device=cpu(), details=dict(row))


def _each_size(
    how: str, what: str, *, least: float = 0.0, most: float = 100.0
) -> dict[float, dict[str, float]]:
    """Numbers that a separate process measures for each size."""
    with tempfile.TemporaryDirectory() as name:
        folder = noise_dataset(Path(name) / "dataset", _PATCH).folder
        rows = {}
        for megapixels, size in _SIZES.items():
            if least <= megapixels <= most:
                command = [sys.executable, "-m", "benchmarks.sampling", str(folder), how, what]
                out = subprocess.run(
                    [*command, *map(str, size)],
                    cwd=ROOT,
                    # Large arrays go back to the system when freed, which costs time.
                    env=os.environ
                    | ({"MALLOC_MMAP_THRESHOLD_": str(2**20)} if what == "memory" else {}),
                    check=True,
                    stdout=subprocess.PIPE,
                )
                rows[megapixels] = json.loads(out.stdout)
    return rows


def _config() -> ConfigDict:
    """A network so small that 15 megapixels take half a minute on two cores."""
    config: ConfigDict = get_config("tiny")
    config.model.update(channels=8, multipliers=(1, 1), attention=(False, False))
    config.sample.update(steps=(3,), tile_batch=32)
    return config


def measure(folder: Path, how: str, what: str, height: int, width: int) -> dict[str, float]:
    """Samples one radiograph for its time, in the median of three rounds, or for its memory."""
    task = DiffusionTask(_config(), RadiographDataset(folder))
    params = jax.jit(task.init)(jax.random.key(0)).ema["0.05"]
    request = Request(height, width, 0.2, "AFF")

    def sample() -> None:
        if how == "whole":
            _sample_whole(task, params, request)
        elif how == "trivial":
            _sample_trivially(request)
        else:
            for _ in task.generate(params, {0: request}, sample=task.config.sample):
                pass

    if what == "memory":
        sample()
        return {"peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    sample()  # compiles
    clocks = {
        "seconds": time.perf_counter,
        "CPU seconds": time.process_time,
        "host seconds": time.thread_time,
    }
    rounds = []
    for _ in range(3):
        before = [clock() for clock in clocks.values()]
        sample()
        rounds.append([clock() - b for clock, b in zip(clocks.values(), before, strict=True)])
    return dict(zip(clocks, map(median, zip(*rounds, strict=True)), strict=True))


def _sample_trivially(request: Request) -> None:
    """Samples all levels of a radiograph with a denoiser that costs next to nothing."""
    patch, config = 256, get_config("base").sample
    config.update(steps=(8,), tile_batch=4)
    sizes = level_sizes(request.height, request.width, patch)
    for _ in Sampler(_shrink, config, patch=patch).sample([Job(0, request, sizes)]):
        pass


@partial(jax.jit, static_argnums=0)
def _shrink(level: int, x: jax.Array, sigma: jax.Array, conditioning: Conditioning) -> jax.Array:
    """The denoiser of independent normal pixels."""
    return x / (1 + sigma[:, None, None, None] ** 2)


def _sample_whole(task: DiffusionTask, params: Any, request: Request) -> None:
    """Samples the last level of an image with the network on the whole image at once."""
    config, size = task.config.sample, np.array([[request.height, request.width]], np.int32)
    shape = (1, request.height, request.width, 1)
    conditioning = Conditioning(
        context=np.zeros(shape, np.float32),
        context_sigma=np.ones(1, np.float32),
        origin=np.zeros((1, 2), np.int32),
        level_size=size,
        size=size,
        level=np.ones(1, np.int32),
        label=np.zeros(1, np.int32),
        spacing_mm=np.full(1, request.spacing_mm, np.float32),
        mirrored=np.zeros(1, np.int32),
    )

    @jax.jit
    def denoise(
        params: Any, x: jax.Array, sigma: jax.Array, conditioning: Conditioning
    ) -> jax.Array:
        F = task.network(params, conditioning)
        return edm.denoise(F, x, sigma, sigma_data=task.config.diffusion.sigma_data)

    x = jax.random.normal(jax.random.key(0), shape)

    def D(x: jax.Array, sigma: float) -> jax.Array:
        denoised = denoise(params, x.reshape(shape), jnp.full(1, sigma, jnp.float32), conditioning)
        return denoised.ravel()

    sigmas = karras_sigmas(config.sigma_max[-1], config.sigma_min, config.steps[-1])
    SOLVERS[config.solver].solve(D, x.ravel(), sigmas)


if __name__ == "__main__":
    _, folder, how, what, *size = sys.argv
    print(json.dumps(measure(Path(folder), how, what, *map(int, size))))
