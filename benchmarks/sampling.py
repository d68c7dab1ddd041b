"""Time and memory of sampling by size, and the wait for the first training step.

Each size is sampled in a process of its own, which runs this file:

    python -m benchmarks.sampling FOLDER tiles|whole seconds|memory HEIGHT WIDTH
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import linear_regression
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.machine import cpu
from benchmarks.measurements import Found
from benchmarks.trainers import noise_dataset
from configs.patch_diffusion import get_config
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request
from femur_jax.diffusion import edm
from femur_jax.diffusion.patches import Place
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.task import DiffusionTask

_ROOT = Path(__file__).parents[1]
_PATCH = 64
_SIZES = {0.25: (560, 448), 1.0: (1120, 896), 4.0: (2240, 1792), 15.0: (4330, 3464)}
"""Height and width by megapixels, all 1.25 times as high as wide."""
_LARGEST_WHOLE = 4.0


def sampling_exponent() -> Found:
    """The exponent of seconds against pixels, by least squares of their logarithms."""
    found = _each_size("tiles", "seconds")
    whole = _each_size("whole", "seconds", most=_LARGEST_WHOLE)
    seconds = {mp: row["seconds"] for mp, row in found.items()}
    fit = linear_regression(np.log(list(seconds)).tolist(), np.log(list(seconds.values())).tolist())
    return Found(
        value=fit.slope,
        device=cpu(),
        details={f"s/MP at {mp:g} MP": s / mp for mp, s in seconds.items()}
        | {f"whole image, s/MP at {mp:g} MP": row["seconds"] / mp for mp, row in whole.items()}
        | {"evaluations a level": _config().sample.steps[-1]},
    )


def sampling_memory_slope() -> Found:
    """Megabytes of peak memory beyond the canvases by megapixel."""
    found = _each_size("tiles", "memory", least=1.0)
    whole = _each_size("whole", "memory", least=1.0, most=_LARGEST_WHOLE)

    def slope(rows: dict[float, dict[str, float]], *names: str) -> float:
        values = [row[names[0]] - sum(row[name] for name in names[1:]) for row in rows.values()]
        return linear_regression(list(rows), values).slope

    return Found(
        value=slope(found, "peak MB", "canvases MB"),
        device=cpu(),
        details={
            "canvases, MB/MP": slope(found, "canvases MB"),
            "everything, MB/MP": slope(found, "peak MB"),
            "whole image, everything, MB/MP": slope(whole, "peak MB"),
        }
        | {f"peak MB at {mp:g} MP": row["peak MB"] for mp, row in found.items()},
    )


def first_step_seconds() -> Found:
    """Seconds from the start of the command to its first logged step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise_dataset(folder / "dataset", 32)
        cold = _seconds_to_first_step(folder, "cold")
        (folder / "warm").mkdir()
        shutil.copytree(folder / "cold" / "compiled", folder / "warm" / "compiled")
        warm = _seconds_to_first_step(folder, "warm")
    return Found(value=warm, device=cpu(), details={"without compiled functions, s": cold})


def _seconds_to_first_step(folder: Path, name: str) -> float:
    command = [sys.executable, "-m", "femur_jax.main", "--config=configs/patch_diffusion.py:tiny"]
    command += [f"--workdir={folder / name}", f"--config.dataset={folder / 'dataset'}"]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--config.train.log_every=1"],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    scalars = folder / name / "scalars.jsonl"
    try:
        while not (scalars.is_file() and scalars.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"the training ended with {process.returncode}")
            time.sleep(0.01)
        return time.perf_counter() - begin
    finally:
        process.kill()
        process.wait()


def _each_size(
    how: str, what: str, *, least: float = 0.0, most: float = 100.0
) -> dict[float, dict[str, float]]:
    """What a process of its own finds for each size."""
    with tempfile.TemporaryDirectory() as name:
        folder = noise_dataset(Path(name) / "dataset", _PATCH).folder
        found = {}
        for megapixels, size in _SIZES.items():
            if least <= megapixels <= most:
                command = [sys.executable, "-m", "benchmarks.sampling", str(folder), how, what]
                out = subprocess.run(
                    [*command, *map(str, size)],
                    cwd=_ROOT,
                    # Large arrays go back to the system when freed, whatever their size.
                    env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)},
                    check=True,
                    stdout=subprocess.PIPE,
                )
                found[megapixels] = json.loads(out.stdout)
    return found


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
    begin = time.perf_counter()
    sample(height, width)
    return {
        "seconds": time.perf_counter() - begin,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "canvases MB": tracemalloc.get_traced_memory()[1] / 2**20,
    }


def _sample_whole(task: DiffusionTask, params: Any, request: Request) -> None:
    """The same network on the whole image at once, as far as its last level goes."""
    config, size = task.config.sample, np.array([[request.height, request.width]], np.int32)
    shape = (1, request.height, request.width, 1)
    place = Place(
        origin=np.zeros((1, 2), np.int32),
        level_size=size,
        size=size,
        level=np.ones(1, np.int32),
        label=np.zeros(1, np.int32),
        spacing_mm=np.full(1, request.spacing_mm, np.float32),
    )
    rows, columns = (
        ((np.arange(n) + 0.5) / (max(size[0]) / 2) - n / max(size[0])).astype(np.float32)
        for n in size[0]
    )
    mask = jnp.ones(shape)
    coordinates = jnp.stack(jnp.broadcast_arrays(rows[:, None], columns), -1)[None]

    @jax.jit
    def denoise(params: Any, x: jax.Array, sigma: jax.Array, context: jax.Array) -> jax.Array:
        F = task.network(params, place, context, jnp.ones(1), mask, coordinates)
        return edm.denoise(F, x, sigma, sigma_data=task.config.diffusion.sigma_data)

    context = np.zeros(shape, np.float32)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)

    def D(x: np.ndarray, sigma: float) -> np.ndarray:
        made = denoise(params, x.reshape(shape), jnp.full(1, sigma, jnp.float32), context)
        return np.asarray(made).ravel()

    sigmas = karras_sigmas(config.sigma_max[-1], config.sigma_min, config.steps[-1])
    SOLVERS[config.solver].solve(D, x.ravel(), sigmas)


if __name__ == "__main__":
    _, where, how, what, *side = sys.argv
    print(json.dumps(measure(Path(where), how, what, *map(int, side))))
