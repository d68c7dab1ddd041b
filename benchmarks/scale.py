"""Time that the start, the loop, its checkpoints and SLURM add to the training steps."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.datasets import noise_dataset
from benchmarks.machine import ROOT, cpu, seconds
from benchmarks.records import Goal, Result, measurement
from benchmarks.trainers import StepTrainer
from configs.patch_diffusion import get_config
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.training import loop
from femur_jax.training.checkpoint import Checkpoints
from femur_jax.training.monitor import SPEED
from femur_jax.training.state import TrainState

_INTERVAL = 20  # steps between two logs; a checkpoint at every other
_INTERVALS = 6
_GIB = 2**30
_PATIENCE = 300.0  # seconds until a start has failed


@measurement("%", Goal("<=", 3.0))
def loop_overhead() -> Result:
    """Time of a training step in the loop, over that of the compiled step alone, minus one.

    The tiny denoiser trains on 32 patches of 32 x 32 pixels. The loop reads patches from a
    dataset, logs to JSON lines and TensorBoard every 20 steps, shows its progress, and saves a
    checkpoint every 40; the bare step takes one batch again and again, before and after. Values
    are medians of intervals of 20 steps.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = _task(folder / "dataset")
        bare = _bare_steps(task)
        before = [bare.seconds(_INTERVAL) for _ in range(_INTERVALS // 2)]
        config = task.config
        config.train.update(
            steps=_INTERVAL * (_INTERVALS + 1),
            log_every=_INTERVAL,
            checkpoint_every=2 * _INTERVAL,
            images_every=10**9,
        )
        task.images = lambda state: {}
        loop.train(task, config, folder / "run")
        after = [bare.seconds(_INTERVAL) for _ in range(_INTERVALS // 2)]
        lines = _lines(folder / "run" / SPEED)[1:]  # the first interval includes the compilation
    alone = median(before + after) / _INTERVAL
    looped = [1 / line["steps_per_second"] for line in lines]
    return Result(
        value=100 * (median(looped) / alone - 1),
        spread=(100 * (min(looped) / alone - 1), 100 * (max(looped) / alone - 1)),
        device=cpu(),
        details={
            "ms per step alone": 1000 * alone,
            "ms per step in the loop": 1000 * median(looped),
            "share of the time waiting for data": median(x["input_wait_share"] for x in lines),
            "intervals": f"{_INTERVALS} of {_INTERVAL} steps, three of them with a checkpoint",
        },
    )


@measurement("%", Goal("<=", 5.0))
def checkpoint_pause() -> Result:
    """Time that an asynchronous checkpoint takes, as a share of the time of 100 steps.

    The state is the tiny denoiser with its moving average and Adam's state. The time includes the
    wait until the loop continues, and by how much the writing slows the next 20 steps.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = _bare_steps(_task(folder / "dataset"))
        step = median(bare.seconds(_INTERVAL) for _ in range(3)) / _INTERVAL
        checkpoints = Checkpoints(folder / "checkpoints")
        pauses, waits = [], []
        for number in range(1, 5):
            waits.append(seconds(checkpoints.save, bare.state, number, {}, {}))
            # The writing continues during the next steps and slows them.
            pauses.append(waits[-1] + bare.seconds(_INTERVAL) - _INTERVAL * step)
        checkpoints.close()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(bare.state))
    shares = [pause / step for pause in pauses[1:]]  # percent of 100 steps
    return Result(
        value=median(shares),
        spread=(min(shares), max(shares)),
        device=cpu(),
        details={
            "MiB of the state": size / 2**20,
            "ms per step": 1000 * step,
            "ms until the loop continues": 1000 * median(waits[1:]),
            "ms in all, with slower steps during the writing": 1000 * median(pauses[1:]),
        },
    )


@measurement("s per GiB", Goal("<=", 5.0))
def restore_seconds_per_gib() -> Result:
    """Seconds to restore 1 GiB of a checkpoint, with its checksums.

    Files are first removed from the operating system's cache (a virtual machine's host may still
    have them). At the goal, the 6 GiB of `large` are restored in half a minute. Restoring reads
    files twice: for their checksums, then, from the cache, for their content. The details give the
    times to read the same files, and both times with the files in the cache.
    """
    rng = np.random.default_rng(0)
    arrays = {str(n): jnp.asarray(rng.random(1 << 24, np.float32)) for n in range(16)}
    state = TrainState(jnp.int32(1), arrays, {}, {})
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        folder = Path(name)
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.save(state, 1, {}, {})
        checkpoints.close()
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)

        def read() -> None:
            for path in files:
                with path.open("rb") as file:
                    while file.read(1 << 24):
                        pass

        def restore() -> None:
            jax.block_until_ready(checkpoints.restore(shapes))

        for number in range(3):
            for source in ("disk", "cache"):
                for name, run in (("read", read), ("restore", restore)):
                    if source == "disk":
                        _evict(files)
                    # A new cache folder, since checkpoints known to be whole are not checked again.
                    os.environ["XDG_CACHE_HOME"] = str(folder / f"{number}-{source}")
                    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
                    rate = seconds(run) / (size / _GIB)
                    rates.setdefault(f"{name} from {source}, s per GiB", []).append(rate)
                    checkpoints.close()
    restored = rates.pop("restore from disk, s per GiB")
    return Result(
        value=median(restored),
        spread=(min(restored), max(restored)),
        device=cpu(),
        details={name: median(values) for name, values in rates.items()}
        | {"GiB on disk": size / _GIB},
    )


@measurement("s", Goal("<=", 20.0))
def first_step_seconds() -> Result:
    """Seconds from the start of the command to the first step of the tiny variant's training.

    The run directory holds the compiled functions of an earlier run; the details give the seconds
    without them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cold = _seconds_to_first_step(folder, "cold")
        (folder / "warm").mkdir()
        shutil.copytree(folder / "cold" / "compiled", folder / "warm" / "compiled")
        warm = _seconds_to_first_step(folder, "warm")
    return Result(value=warm, device=cpu(), details={"without compiled functions, s": cold})


@measurement("s", Goal("<=", 60.0))
def srun_first_step_seconds() -> Result:
    """Seconds from `srun` on two nodes to the first training step.

    SLURM has two nodes on this machine, one process each, which train the tiny denoiser with
    nothing compiled before. The processes share the machine's cores, so both compile at half the
    speed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster, slurm = str(ROOT / "launch" / "local_cluster"), folder / "slurm"
        subprocess.run([cluster, "up", str(slurm)], check=True, capture_output=True)
        environment = {
            "SLURM_CONF": str(slurm / "slurm.conf"),
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
        }
        srun = ("srun", "--nodes=2", "--ntasks=2")
        try:
            cold = _seconds_to_first_step(folder, "run", srun, environment)
            shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
            (folder / "run" / "scalars.jsonl").unlink()
            warm = _seconds_to_first_step(folder, "run", srun, environment)
        finally:
            subprocess.run([cluster, "down", str(slurm)], check=True)
    return Result(value=cold, device=cpu(), details={"s when compiled before": warm})


def _seconds_to_first_step(
    folder: Path,
    run: str,
    launcher: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> float:
    """Seconds from the start of a training, alone or by a launcher, to its first logged step."""
    dataset, workdir, log = folder / "dataset", folder / run, folder / f"{run}.log"
    if not dataset.exists():
        noise_dataset(dataset, 32)
    command = [*launcher, sys.executable, "-m", "femur_jax.main", "train"]
    command += ["--config=configs/patch_diffusion.py:tiny", f"--workdir={workdir}"]
    command += [f"--config.dataset={dataset}", "--config.train.log_every=1"]
    env = os.environ | (environment or {})
    start_time = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)
    try:
        while not _lines(workdir / "scalars.jsonl"):
            if process.poll() is not None or time.monotonic() > start_time + _PATIENCE:
                raise RuntimeError(f"No first step; the log ends: {log.read_text()[-2000:]}")
            time.sleep(0.01)
        return time.monotonic() - start_time
    finally:
        process.terminate()
        process.wait()


def _task(folder: Path) -> DiffusionTask:
    config = get_config("tiny")
    config.dataset = str(folder)
    return DiffusionTask(config, noise_dataset(folder, 32))


def _bare_steps(task: DiffusionTask) -> StepTrainer:
    return StepTrainer(task, task.config.train.batch_size, "cpu")


def _evict(files: list[Path]) -> None:
    """Removes files from the operating system's cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _lines(file: Path) -> list[dict[str, float]]:
    """The whole lines of a file of JSON lines; an empty list without the file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
