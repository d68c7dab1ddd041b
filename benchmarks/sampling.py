"""Time and memory of sampling by size.

Each size is sampled in a separate process, which runs this file:

    python -m benchmarks.sampling FOLDER tiles|whole seconds|memory HEIGHT WIDTH
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from statistics import linear_regression
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.datasets import noise_dataset
from benchmarks.machine import ROOT, cpu, seconds
from benchmarks.records import Goal, Result, measurement
from configs.patch_diffusion import get_config
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request
from femur_jax.diffusion import edm
from femur_jax.diffusion.conditioning import Conditioning
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.task import DiffusionTask

_PATCH = 64
_SIZES = {0.25: (560, 448), 1.0: (1120, 896), 4.0: (2240, 1792), 15.0: (4330, 3464)}
"""Heights and widths by megapixels, all 1.25 times as high as wide."""
_LARGEST_WHOLE = 4.0


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


@measurement("MB/MP", Goal("<=", 2.0))
def sampling_memory_slope() -> Result:
    """Peak memory of sampling beyond the canvases, by size of the radiograph.

    The process's peak resident memory at 1, 4 and 15 megapixels, minus the peak of NumPy's arrays,
    which the canvases on the host are; the value is the slope of a straight line. On a GPU this is
    the device's share, the same for all sizes. The goal is the size of the radiograph itself.
    """
    tiles = _each_size("tiles", "memory", least=1.0)
    whole = _each_size("whole", "memory", least=1.0, most=_LARGEST_WHOLE)

    def slope(rows: dict[float, dict[str, float]], *names: str) -> float:
        values = [row[names[0]] - sum(row[name] for name in names[1:]) for row in rows.values()]
        return linear_regression(list(rows), values).slope

    return Result(
        value=slope(tiles, "peak MB", "canvases MB"),
        device=cpu(),
        details={
            "canvases, MB/MP": slope(tiles, "canvases MB"),
            "everything, MB/MP": slope(tiles, "peak MB"),
            "whole image, everything, MB/MP": slope(whole, "peak MB"),
        }
        | {f"peak MB at {mp:g} MP": row["peak MB"] for mp, row in tiles.items()},
    )


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
                    # Large arrays go back to the system when freed, whatever their size.
                    env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)},
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
    """Samples one radiograph for its time, or for its memory with NumPy's arrays traced."""
    task = DiffusionTask(_config(), RadiographDataset(folder))
    params = jax.jit(task.init)(jax.random.key(0)).ema["0.05"]

    def sample(height: int, width: int) -> None:
        request = Request(height, width, 0.2, "AFF")
        if how == "whole":
            _sample_whole(task, params, request)
        else:
            for _ in task.generate(params, {0: request}, sample=task.config.sample):
                pass

    if how == "tiles":
        sample(2 * _PATCH, 2 * _PATCH)  # compiles for all sizes
    elif what == "seconds":
        sample(height, width)  # compiles for this one
    if what == "memory":
        tracemalloc.start()  # sees NumPy's arrays and not XLA's
    return {
        "seconds": seconds(sample, height, width),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "canvases MB": tracemalloc.get_traced_memory()[1] / 2**20,
    }


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

    x = np.random.default_rng(0).standard_normal(shape, np.float32)

    def D(x: np.ndarray, sigma: float) -> np.ndarray:
        denoised = denoise(params, x.reshape(shape), jnp.full(1, sigma, jnp.float32), conditioning)
        return np.asarray(denoised).ravel()

    sigmas = karras_sigmas(config.sigma_max[-1], config.sigma_min, config.steps[-1])
    SOLVERS[config.solver].solve(D, x.ravel(), sigmas)


if __name__ == "__main__":
    _, folder, how, what, *size = sys.argv
    print(json.dumps(measure(Path(folder), how, what, *map(int, size))))
