"""A task on the devices: how its state is divided, its first state, and its compiled update."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from femur_jax.parallel.rules import state_shardings
from femur_jax.training.state import TrainState
from femur_jax.training.task import Metrics, Task

_RUNS_ONCE = {"xla_backend_optimization_level": 0}  # optimising would take longer than running


class Program:
    """The compiled functions of a task on a mesh.

    Attributes:
        mesh: The devices of all processes.
        shardings: The sharding of each array of the state.
        state_shapes: The shape, type and sharding of each array of the state.
        flops: The number of floating-point operations of one device in the newest update, as XLA
            counts them: a loop's body, such as over microbatches, counts once.
    """

    def __init__(self, task: Task, mesh: Mesh):
        """Determines how the state is divided; compiles nothing yet."""
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        self.mesh = mesh
        self.shardings = state_shardings(shapes, mesh, task.rules)
        self.state_shapes = jax.tree.map(
            lambda array, sharding: jax.ShapeDtypeStruct(
                array.shape, array.dtype, sharding=sharding
            ),
            shapes,
            self.shardings,
        )
        self.flops = 0.0
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._init = jax.jit(task.init, out_shardings=self.shardings, compiler_options=_RUNS_ONCE)
        self._step = _step(task)
        # The new state takes the memory of the old one.
        self._update = jax.jit(self._step, donate_argnums=0, out_shardings=(self.shardings, None))
        self._compiled: dict[tuple, jax.stages.Compiled] = {}

    @property
    def state_bytes(self) -> int:
        """Bytes of the state on one device."""
        return sum(
            math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
            for array in jax.tree.leaves(self.state_shapes)
        )

    def key(self, seed: int) -> Key[Array, ""]:
        """Returns the key of a seed, on every device."""
        return jax.jit(lambda: jax.random.key(seed), out_shardings=self._everywhere)()

    def init(self, key: Key[Array, ""]) -> TrainState:
        """Returns the state before the first step, created on the devices that hold it."""
        return self._init(key)

    def update(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Performs one step of the task, compiled once for each shape of batch.

        Args:
            state: The state before the step, whose memory is reused.
            batch: The training samples.
            key: The run's key; each step derives its own from it.
        """
        shapes = tuple(array.shape for array in batch.values())
        if shapes not in self._compiled:
            self._compiled[shapes] = self._update.lower(state, batch, key).compile()
            self.flops = (self._compiled[shapes].cost_analysis() or {}).get("flops", 0.0)
        return self._compiled[shapes](state, batch, key)

    def compile(self, batch: Mapping[str, Any]) -> jax.stages.Compiled:
        """Compiles the update for the shapes, types and shardings of a batch; runs nothing."""
        dtype = jax.eval_shape(lambda: jax.random.key(0)).dtype
        key = jax.ShapeDtypeStruct((), dtype, sharding=self._everywhere)
        return self._update.lower(self.state_shapes, batch, key).compile()


@lru_cache(maxsize=2)
def _step(task: Task) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step of equal tasks as one function, which JAX traces and compiles once for all."""

    def step(state: TrainState, batch: dict[str, Array], key: Key[Array, ""]):
        return task.step(state, batch, jax.random.fold_in(key, state.step))

    return step
