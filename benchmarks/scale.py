"""What the training loop, its checkpoints and SLURM cost."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.machine import cpu
from benchmarks.measurements import Found
from configs.patch_diffusion import get_config
from femur_jax.data.loader import batches
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.parallel.mesh import batch_sharding, make_mesh
from femur_jax.parallel.rules import state_shardings
from femur_jax.training import loop
from femur_jax.training.checkpoint import Checkpoints
from femur_jax.training.monitor import SPEED
from femur_jax.training.state import TrainState

_ROOT = Path(__file__).parents[1]
_INTERVAL = 20  # steps between two logs; a checkpoint at every other
_INTERVALS = 6
_GIB = 2**30
_PATIENCE = 300.0  # seconds until a run on two nodes has failed


def loop_overhead() -> Found:
    """Time of a step in the loop over that of the compiled step alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = _task(folder / "dataset")
        bare = _Bare(task)
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
        lines = _lines(folder / "run" / SPEED)[1:]  # the first has the compilation in it
    alone = median(before + after) / _INTERVAL
    looped = [1 / line["steps_per_second"] for line in lines]
    return Found(
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


def checkpoint_pause() -> Found:
    """What a checkpoint costs the steps around it, as a share of 100 steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = _Bare(_task(folder / "dataset"))
        step = median(bare.seconds(_INTERVAL) for _ in range(3)) / _INTERVAL
        checkpoints = Checkpoints(folder / "checkpoints")
        pauses, waits = [], []
        for number in range(1, 5):
            begin = time.perf_counter()
            checkpoints.save(bare.state, number, {}, {})
            waits.append(time.perf_counter() - begin)
            # The writing goes on beside the next steps and slows them.
            pauses.append(waits[-1] + bare.seconds(_INTERVAL) - _INTERVAL * step)
        checkpoints.close()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(bare.state))
    shares = [pause / step for pause in pauses[1:]]  # percent of 100 steps
    return Found(
        value=median(shares),
        spread=(min(shares), max(shares)),
        device=cpu(),
        details={
            "MiB of the state": size / 2**20,
            "ms per step": 1000 * step,
            "ms until the loop goes on": 1000 * median(waits[1:]),
            "ms in all, with slower steps beside the writing": 1000 * median(pauses[1:]),
        },
    )


def restore_seconds_per_gib() -> Found:
    """Seconds to restore a checkpoint of 1 GiB, from the disk and from the system's cache."""
    rng = np.random.default_rng(0)
    arrays = {str(n): jnp.asarray(rng.random(1 << 24, np.float32)) for n in range(16)}
    state = TrainState(jnp.int32(1), arrays, {}, {})
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=_ROOT) as name:
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
            for place in ("disk", "cache"):
                for name, run in (("read", read), ("restore", restore)):
                    if place == "disk":
                        _forget(files)
                    # What was found whole before is not checked again.
                    os.environ["XDG_CACHE_HOME"] = str(folder / f"{number}-{place}")
                    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
                    begin = time.perf_counter()
                    run()
                    taken = (time.perf_counter() - begin) / (size / _GIB)
                    seconds.setdefault(f"{name} from {place}, s per GiB", []).append(taken)
                    checkpoints.close()
    restored = seconds.pop("restore from disk, s per GiB")
    return Found(
        value=median(restored),
        spread=(min(restored), max(restored)),
        device=cpu(),
        details={name: median(taken) for name, taken in seconds.items()}
        | {"GiB on disk": size / _GIB},
    )


def srun_first_step_seconds() -> Found:
    """Seconds from srun on two local nodes to the end of the first step."""
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _dataset(folder / "dataset")
        cluster = [str(_ROOT / "launch" / "local_cluster")]
        subprocess.run([*cluster, "up", str(folder / "slurm")], check=True, capture_output=True)
        environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm" / "slurm.conf"),
            "PYTHONPATH": str(_ROOT),
            "JAX_PLATFORMS": "cpu",
        }
        try:
            for kind in ("cold", "compiled before"):
                workdir = folder / "run"
                shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
                (workdir / "scalars.jsonl").unlink(missing_ok=True)
                begin = time.time()
                command = ["srun", "--nodes=2", "--ntasks=2", sys.executable]
                command += ["-m", "femur_jax.main", f"--workdir={workdir}"]
                command += ["--config=configs/patch_diffusion.py:tiny"]
                command += [f"--config.dataset={folder / 'dataset'}", "--config.train.log_every=1"]
                log = folder / f"{kind}.log"
                with log.open("w") as file:
                    process = subprocess.Popen(command, cwd=_ROOT, env=environment, stderr=file)
                try:
                    while not _lines(workdir / "scalars.jsonl"):
                        if process.poll() is not None or time.time() > begin + _PATIENCE:
                            raise RuntimeError(
                                f"no first step; srun said: {log.read_text()[-2000:]}"
                            )
                        time.sleep(0.05)
                    seconds[kind] = time.time() - begin
                finally:
                    process.terminate()
                    process.wait()
        finally:
            subprocess.run([*cluster, "down", str(folder / "slurm")], check=True)
    return Found(
        value=seconds["cold"],
        device=cpu(),
        details={"s when compiled before": seconds["compiled before"]},
    )


class _Bare:
    """The compiled step of a task on one batch, as the loop calls it."""

    def __init__(self, task: DiffusionTask):
        mesh = make_mesh(task.config.mesh)
        key = jax.random.key(0)
        shardings = state_shardings(jax.eval_shape(task.init, key), mesh, task.rules)
        size = task.config.train.batch_size
        self._batch = next(
            batches(task.streams(), batch_size=size, start=0, sharding=batch_sharding(mesh))
        )
        self._update = loop.Update(task, shardings)
        self._key = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
        self.state = jax.jit(task.init, out_shardings=shardings)(self._key)
        self.seconds(1)  # compiles

    def seconds(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self.state, _ = self._update(self.state, self._batch, self._key)
        jax.block_until_ready(self.state)
        return time.perf_counter() - begin


def _task(folder: Path) -> DiffusionTask:
    config = get_config("tiny")
    config.dataset = str(folder)
    return DiffusionTask(config, _dataset(folder))


def _dataset(folder: Path) -> RadiographDataset:
    """Radiographs of two levels; what they show does not matter to speed."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, patch=32, provenance={"kind": "noise"}) as writer:
        for n in range(32):
            pixels = rng.integers(0, 2**12, (64, 64 - n), np.uint16)
            radiograph = Radiograph(
                pixels, f"radiograph {n}", LABELS[n % 2], f"patient {n}", "hospital", 0.5
            )
            writer.add(encode(radiograph, 32), "train")
    return RadiographDataset(folder)


def _forget(files: list[Path]) -> None:
    """Takes files out of the operating system's cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _lines(file: Path) -> list[dict[str, float]]:
    """The lines of a file of JSON lines, none where there is none yet."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
