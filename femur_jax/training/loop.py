"""The training loop of every model."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from femur_jax.config import Config
from femur_jax.data.loader import Stream, batches
from femur_jax.errors import UserError
from femur_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from femur_jax.parallel.rules import Rules, state_shardings
from femur_jax.training.checkpoint import Checkpoints, Snapshots
from femur_jax.training.monitor import Monitor
from femur_jax.training.state import TrainState
from femur_jax.workdir import claim

FREE_FIELDS = ("stage", "mesh", "sample")
"""Fields of a config that may change within a run."""

Metrics = dict[str, Float[Array, ""] | Float[Array, "2"]]
"""Numbers by name: one for the step, or a sum and a count where a step may have nothing to add."""


@runtime_checkable
class Task(Protocol):
    """What a model family gives to the loop."""

    name: str
    rules: Rules

    def init(self, key: Key[Array, ""]) -> TrainState:
        """The state before the first step."""
        ...

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """One update; a pure function, compiled by the loop."""
        ...

    def streams(self) -> list[Stream]:
        """The endless streams of training samples."""
        ...

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Pictures for TensorBoard in [0, 1], shape (n, height, width, 1)."""
        ...


def train(task: Task, config: Config, folder: Path) -> TrainState:
    """Trains to the last step, from the newest checkpoint where there is one.

    Args:
        task: The model.
        config: With `seed`, `mesh` (data, fsdp, model) and `train` (steps, batch_size,
            log_every, checkpoint_every; snapshot_every, of the moving averages, if any).
        folder: Holds the logs, `checkpoints/` and `snapshots/`.

    Raises:
        UserError: The mesh and the batch do not fit, a class has no data, the folder belongs to
            another config, or the loss is no longer finite.
    """
    # Devices and state, placed as it is created.
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh)
    streams = task.streams()
    claim(folder, config, free=FREE_FIELDS)
    key = jax.random.key(config.seed)
    shardings = state_shardings(jax.eval_shape(task.init, key), mesh, task.rules)
    checkpoints = Checkpoints(folder / "checkpoints")
    if checkpoints.latest is None:
        state = jax.jit(task.init, out_shardings=shardings)(key)
    else:
        state = checkpoints.restore(_abstract(task, key, shardings))
    start = int(state.step)
    steps = config.train.steps
    if start >= steps:
        checkpoints.close()
        return state

    # Data from the same place on, and the compiled update.
    stream = batches(
        streams,
        batch_size=config.train.batch_size,
        start=start,
        sharding=batch_sharding(mesh),
    )

    def update(state: TrainState, batch: dict[str, Array], key: Key[Array, ""]):
        return task.step(state, batch, jax.random.fold_in(key, state.step))

    update = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
    key = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
    monitor = Monitor(folder, name=f"train {task.name}", start=start, steps=steps)
    pending: list[Metrics] = []
    snapshot_every = config.train.get("snapshot_every", 0)
    snapshots = Snapshots(folder / "snapshots") if snapshot_every else None
    try:
        for step in range(start + 1, steps + 1):
            with jax.transfer_guard("disallow"):
                batch = next(stream)
                state, metrics = update(state, batch, key)
            pending.append(metrics)
            monitor.advance(step)
            if step % config.train.log_every == 0 or step == steps:
                monitor.scalars(step, _mean(pending, step))
                pending = []
            if step % config.train.checkpoint_every == 0 or step == steps:
                checkpoints.save(state, step)
            if snapshots and step % snapshot_every == 0:
                snapshots.save(state.ema, step)
        monitor.images(steps, task.images(state))
    finally:
        monitor.close()
        checkpoints.close()
        if snapshots:
            snapshots.close()
    return state


def restore(task: Task, config: Config, folder: Path) -> TrainState:
    """The newest state of a run, on this process's mesh.

    Raises:
        UserError: The run has no checkpoint.
    """
    mesh = make_mesh(config.mesh)
    checkpoints = Checkpoints(folder / "checkpoints")
    if checkpoints.latest is None:
        raise UserError(f"{folder} holds no checkpoint; run the training first.")
    key = jax.random.key(config.seed)
    shardings = state_shardings(jax.eval_shape(task.init, key), mesh, task.rules)
    state = checkpoints.restore(_abstract(task, key, shardings))
    checkpoints.close()
    return state


def _abstract(task: Task, key: Key[Array, ""], shardings: Any) -> Any:
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        jax.eval_shape(task.init, key),
        shardings,
    )


def _mean(metrics: list[Metrics], step: int) -> dict[str, float]:
    """Means over the steps since the last call; a metric that nothing was counted for is left out.

    Raises:
        UserError: A number is not finite; says of which step and which metrics.
    """
    rows = jax.device_get(metrics)
    for number, row in enumerate(rows, start=step - len(rows) + 1):
        broken = {name: v for name, v in row.items() if not np.isfinite(v).all()}
        if broken:
            value = np.ravel(next(iter(broken.values())))[0]
            raise UserError(
                f"{', '.join(broken)}: {value} at step {number}; the training diverged; start "
                "again from the last checkpoint with a smaller learning rate."
            )
    means = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], float)
        total, count = values.sum(axis=0) if values.ndim == 2 else (values.sum(), len(values))
        if count:
            means[name] = float(total / count)
    return means
