"""Compiled training steps that are timed in turns with a peer's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.machine import seconds
from femur_jax.data.loader import batches
from femur_jax.parallel.mesh import AXES, batch_sharding
from femur_jax.training.program import Program
from femur_jax.training.task import Task

_PRODUCT, _PRODUCTS = 8192, 5  # rows and columns, and how many products are timed


class StepTrainer:
    """The training step as the loop compiles it, on one batch.

    Attributes:
        state: The state after the steps so far.
        batch: The batch of every step.
        flops: Floating-point operations of a step, as XLA counts them.
        gib: Memory that a step needs on each device.
    """

    def __init__(self, task: Task, batch_size: int, platform: str):
        """Compiles the step for all devices of the CPU, or for one GPU.

        Args:
            task: The model in training.
            batch_size: Samples of a batch, which the devices share.
            platform: Either "cpu" or "gpu".
        """
        mesh = Mesh(np.array(platform_devices(platform)).reshape(-1, 1, 1), AXES)
        program, divided = Program(task, mesh), batch_sharding(mesh)
        self.batch = next(batches(task.streams(), batch_size=batch_size, start=0, sharding=divided))
        self._key = program.key(0)
        self.state = program.init(self._key)
        self._update = program.compile(self.batch)
        cost, memory = self._update.cost_analysis(), self._update.memory_analysis()
        assert cost and memory  # CPUs and GPUs report both
        self.flops = cost["flops"] * mesh.size
        # The new state replaces the old one in memory.
        self.gib = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30

    def seconds(self, steps: int) -> float:
        """Wall time of some steps."""
        return seconds(self._train, steps)

    def _train(self, steps: int) -> None:
        for _ in range(steps):
            self.state, _ = self._update(self.state, self.batch, self._key)
        jax.block_until_ready(self.state)


def seconds_in_turns(
    trainers: tuple[Any, ...], *, rounds: int, steps: int
) -> tuple[tuple[float, ...], ...]:
    """Seconds for some steps of each trainer in each round, after one step that is not counted."""
    times = []
    for _ in range(rounds):
        row = []
        for trainer in trainers:
            trainer.seconds(1)
            row.append(trainer.seconds(steps))
        times.append(row)
    return tuple(zip(*times, strict=True))


def away_from_init(params: Any) -> Any:
    """Parameters with noise: zeros in the last layers of new networks hide what is before them."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), params)


def platform_devices(platform: str) -> list[Any]:
    """All devices of the CPU, or the first GPU."""
    return jax.devices(platform)[: 1 if platform == "gpu" else None]


def matrix_flops() -> float:
    """Operations a second of a large product of bfloat16 matrices on the default device."""
    product = jax.jit(lambda a, b: a @ b)
    keys = jax.random.split(jax.random.key(0))
    factors = [jax.random.normal(key, (_PRODUCT, _PRODUCT), jnp.bfloat16) for key in keys]

    def multiply(times: int) -> None:
        jax.block_until_ready([product(*factors) for _ in range(times)])

    multiply(1)
    return _PRODUCTS * 2 * _PRODUCT**3 / seconds(multiply, _PRODUCTS)
