"""What takes turns in a measurement of training: our compiled step, and a peer's script."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.environment import peer_python
from femur_jax.data.loader import batches
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.training.loop import Task

_PEERS = Path(__file__).parent / "peers"
_PRODUCT, _PRODUCTS = 8192, 5  # rows and columns, and how many products are timed


class PeerProcess:
    """A peer's script as a process of its own, idle between rounds.

    It answers, with a line of JSON each, to its start and to every line written to it.
    """

    def __init__(self, script: str, folder: Path, *arguments: str):
        """Starts a script of benchmarks/peers on a folder of what is exchanged."""
        self._process = subprocess.Popen(
            [str(peer_python()), str(_PEERS / script), str(folder), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about: dict[str, Any] = self._answer()

    def seconds(self, steps: int) -> float:
        """Wall time that the peer took for some steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The peer's process has ended; its traceback is above.")
        return json.loads(line)

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class StepTrainer:
    """The training step as the loop compiles it, on one batch.

    Attributes:
        state: After the steps so far.
        batch: The batch.
        flops: Floating-point operations of a step, as XLA counts them.
        gib: Memory that a step needs on each device.
    """

    def __init__(self, task: Task, batch_size: int, platform: str):
        """Compiles the step for all devices of the CPU, or for one GPU.

        Args:
            task: What is trained.
            batch_size: Of all devices.
            platform: "cpu" or "gpu".
        """
        mesh = Mesh(np.array(platform_devices(platform)), ("data",))
        divided = NamedSharding(mesh, PartitionSpec("data"))
        self.batch = next(batches(task.streams(), batch_size=batch_size, start=0, sharding=divided))
        self._key = jax.random.key(0)
        # Placed as the loop does: an uncommitted state would compile the step twice.
        everywhere = NamedSharding(mesh, PartitionSpec())
        self.state = jax.jit(task.init, out_shardings=everywhere)(self._key)

        def update(state, batch, key):
            return task.step(state, batch, jax.random.fold_in(key, state.step))

        self._update = (
            jax.jit(update, donate_argnums=0, out_shardings=(everywhere, None))
            .lower(self.state, self.batch, self._key)
            .compile()
        )
        cost, memory = self._update.cost_analysis(), self._update.memory_analysis()
        assert cost and memory  # CPUs and GPUs tell both
        self.flops = cost["flops"] * mesh.size
        # The new state takes the place of the old one.
        self.gib = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30

    def seconds(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self.state, _ = self._update(self.state, self.batch, self._key)
        jax.block_until_ready(self.state)
        return time.perf_counter() - begin


def platform_devices(platform: str) -> list[Any]:
    """All of the CPU, or the first GPU."""
    return jax.devices(platform)[: 1 if platform == "gpu" else None]


def matrix_flops() -> float:
    """Operations a second of a large product of bfloat16 matrices on the default device."""
    product = jax.jit(lambda a, b: a @ b)
    keys = jax.random.split(jax.random.key(0))
    factors = [jax.random.normal(key, (_PRODUCT, _PRODUCT), jnp.bfloat16) for key in keys]
    product(*factors).block_until_ready()
    begin = time.perf_counter()
    jax.block_until_ready([product(*factors) for _ in range(_PRODUCTS)])
    return _PRODUCTS * 2 * _PRODUCT**3 / (time.perf_counter() - begin)


def noise_dataset(folder: Path, patch: int) -> RadiographDataset:
    """Radiographs of two levels and several shapes; what they show does not matter to speed."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, patch=patch, provenance={"kind": "noise"}) as writer:
        for n in range(8):
            pixels = rng.integers(0, 2**16, (2 * patch, 2 * patch - 2 * n), np.uint16)
            radiograph = Radiograph(
                pixels, f"radiograph {n}", LABELS[n % len(LABELS)], f"patient {n}", "hospital", 0.5
            )
            writer.add(encode(radiograph, patch), "train")
    return RadiographDataset(folder)
