"""The training loop of every model."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Key, PyTree
from ml_collections import ConfigDict

from femur_jax.data.loader import Stream, batches
from femur_jax.errors import UserError
from femur_jax.parallel.distributed import Preempted, StopRequest
from femur_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from femur_jax.parallel.rules import state_shardings
from femur_jax.run_folder import claim
from femur_jax.training.checkpoint import BEST, Checkpoints, Snapshots
from femur_jax.training.monitor import Monitor, by_path, histogram_samples
from femur_jax.training.state import TrainState
from femur_jax.training.task import Metrics, Task

FREE_FIELDS = (
    "mesh",
    "sample",
    "evaluate",
    "profile",
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.images_every",
    "train.snapshot_every",
)
"""Fields of a config that may change within a run, by their dotted names."""

CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"

_RUNS_ONCE = {"xla_backend_optimization_level": 0}  # optimising would take longer than running
_DIVERGED = (
    "the training diverged, and what came after the last checkpoint is not saved; train anew in "
    "another --workdir with a smaller learning rate."
)


@runtime_checkable
class ValidatedTask(Task, Protocol):
    """A task that can tell how good its model is on data that is not trained on."""

    def validate(self, ema: PyTree) -> dict[str, float]:
        """Numbers of the averaged parameters, BEST among them; none where there is no such data.

        They are taken at each checkpoint. The best one is kept and used, and training ends after
        `config.train.patience` of them without a better one.
        """
        ...


def train(task: Task, config: ConfigDict, folder: Path) -> TrainState:
    """Trains to the last step, from the newest whole checkpoint where there is one.

    Args:
        task: The model.
        config: With `seed`, `mesh` (data, fsdp, model), `profile` and `train` (steps, batch_size,
            log_every, checkpoint_every, images_every; where a model has them, accumulate, the parts
            of a batch, snapshot_every, of the moving averages, and patience, see `ValidatedTask`,
            0 to go on to the last step).
        folder: Holds the logs, `checkpoints/` and `snapshots/`.

    Raises:
        UserError: The mesh and the batch do not fit, a class has no data, the folder belongs to
            another config, data or model, the loss is no longer finite, or the disk is full.
        Preempted: A SIGTERM came; the last step is saved.
    """
    # Devices and state, placed as it is created.
    mesh = make_mesh(config.mesh)
    parts = config.train.get("accumulate", 1)
    check_batch_size(config.train.batch_size, mesh, parts)
    streams = task.streams()
    claim(folder, config, stage="train", free=FREE_FIELDS, keep_free=True)
    key = jax.random.key(config.seed)
    shardings = state_shardings(jax.eval_shape(task.init, key), mesh, task.rules)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    saved = checkpoints.restore(_abstract(task, key, shardings))
    data = _digest(streams)
    if saved is None:
        init = jax.jit(task.init, out_shardings=shardings, compiler_options=_RUNS_ONCE)
        state, start, pending = init(key), 0, []
        validated: list[tuple[int, float]] = []  # steps and their losses
    else:
        state, start = saved.state, saved.run["next_batch"]
        pending = saved.run["metrics"]
        validated = _validated(saved.run)
        if saved.run["data"] != data:
            raise UserError(
                f"{folder} was trained on other data than there are now in the same place; "
                "name another --workdir, or bring back the data."
            )
    steps, patience = config.train.steps, config.train.get("patience", 0)
    if start >= steps or _is_over(validated, patience):
        checkpoints.close()
        return state

    # Data from the same place on, and the compiled update.
    stream = batches(
        streams,
        batch_size=config.train.batch_size,
        start=start,
        sharding=batch_sharding(mesh),
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=everywhere)()
    update = Update(task, shardings)
    monitor = Monitor(
        folder, name=f"train {task.name}", start=start, steps=steps, profile=config.profile
    )
    monitor.describe(config, state.params)
    means: dict[str, float] = {}
    validates = isinstance(task, ValidatedTask)
    snapshot_every = config.train.get("snapshot_every", 0)
    snapshots = Snapshots(folder / SNAPSHOTS) if snapshot_every else None
    try:
        with StopRequest() as stop:
            for step in range(start + 1, steps + 1):
                begin = time.perf_counter()
                batch = next(stream)
                monitor.waited(time.perf_counter() - begin)
                with jax.transfer_guard("disallow"):
                    state, metrics = update(state, batch, key)
                pending.append(metrics)
                monitor.advance(step)
                due = step == steps or step % config.train.checkpoint_every == 0
                scores = {}
                if due and validates:
                    begin = time.perf_counter()
                    _check_finite(state, step)
                    if scores := _validate(task, state):
                        validated.append((step, scores[BEST]))
                        monitor.validation(step, scores)
                    monitor.exclude(time.perf_counter() - begin)
                last = step == steps or _is_over(validated, patience)
                stopped = not last and stop.reached(step)
                if last or step % config.train.log_every == 0:
                    means = _mean(pending, step)
                    monitor.scalars(step, means, flops_per_step=update.flops * parts)
                    pending = []
                saves = due or stopped
                snaps = snapshots is not None and step % snapshot_every == 0
                if saves or snaps:
                    _check_finite(state, step)
                    _finite(pending, step)
                if saves:
                    run = {"next_batch": step, "data": data, "metrics": _plain(pending)}
                    run["validated"] = validated
                    # Between validations nothing is known that could be compared with them.
                    checkpoints.save(state, step, run, scores if validates else means)
                if snapshots and snaps:
                    snapshots.save(state.ema, step)
                if stopped:
                    raise Preempted
                if last or step % config.train.images_every == 0:
                    begin = time.perf_counter()
                    _show(task, state, monitor, step)
                    monitor.exclude(time.perf_counter() - begin)
                if last:
                    break
    finally:
        monitor.close()
        checkpoints.close()
        if snapshots:
            snapshots.close()
    if jax.process_index() == 0 and _is_over(validated, patience):
        print(f"Ended at step {step}: nothing was better than step {_best(validated)}.")
    return state


def restore(task: Task, config: ConfigDict, folder: Path) -> TrainState:
    """A run's best state by validation, or its newest whole one, on this process's mesh.

    Raises:
        UserError: The run has no whole checkpoint.
    """
    mesh = make_mesh(config.mesh)
    key = jax.random.key(config.seed)
    shardings = state_shardings(jax.eval_shape(task.init, key), mesh, task.rules)
    saved = None
    if (folder / CHECKPOINTS).is_dir():
        checkpoints = Checkpoints(folder / CHECKPOINTS, read_only=True)
        abstract = _abstract(task, key, shardings)
        saved = checkpoints.restore(abstract)
        if saved and (validated := _validated(saved.run)):
            saved = checkpoints.restore(abstract, prefer=_best(validated))
        checkpoints.close()
    if saved is None:
        raise UserError(f"{folder} holds no checkpoint; run the training first.")
    return saved.state


class Update:
    """A task's step, compiled once for each shape of batch. It reuses the memory of the state.

    Attributes:
        flops: Floating-point operations of a device in the newest program, as XLA counts them:
            those in a loop's body, such as over parts of a batch, once.
    """

    def __init__(self, task: Task, shardings: Any):
        """Compiles nothing yet; `shardings` are of the state."""

        def update(state: TrainState, batch: dict[str, Array], key: Key[Array, ""]):
            return task.step(state, batch, jax.random.fold_in(key, state.step))

        self._update = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
        self._compiled: dict[tuple, Any] = {}
        self.flops = 0.0

    def __call__(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        shapes = tuple(array.shape for array in batch.values())
        if shapes not in self._compiled:
            self._compiled[shapes] = self.compile(state, batch, key)
            self.flops = (self._compiled[shapes].cost_analysis() or {}).get("flops", 0.0)
        return self._compiled[shapes](state, batch, key)

    def compile(self, state: Any, batch: Any, key: Any) -> jax.stages.Compiled:
        """The program for these arrays, or for their shapes, types and shardings."""
        return self._update.lower(state, batch, key).compile()


def _abstract(task: Task, key: Key[Array, ""], shardings: Any) -> Any:
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        jax.eval_shape(task.init, key),
        shardings,
    )


def _mean(metrics: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Means over the steps since the last call; a metric that nothing was counted for is left out.

    Raises:
        UserError: A number is not finite.
    """
    rows = _finite(metrics, step)
    means = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], float)
        total, count = values.sum(axis=0) if values.ndim == 2 else (values.sum(), len(values))
        if count:
            means[name] = float(total / count)
    return means


def _finite(metrics: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """The metrics of the steps up to this one, on the host.

    Raises:
        UserError: A number is not finite; says of which step and which metrics.
    """
    rows = jax.device_get(metrics)
    for number, row in enumerate(rows, start=step - len(rows) + 1):
        broken = {name: v for name, v in row.items() if not np.isfinite(v).all()}
        if broken:
            value = np.ravel(next(iter(broken.values())))[0]
            raise UserError(f"{', '.join(broken)}: {value} at step {number}; {_DIVERGED}")
    return rows


def _validate(task: ValidatedTask, state: TrainState) -> dict[str, float]:
    """The first process's numbers, so that all processes end at the same step."""
    if jax.process_count() == 1:
        return task.validate(state.ema)
    ema = multihost_utils.process_allgather(state.ema, tiled=True)
    scores = task.validate(jax.tree.map(jnp.asarray, ema))
    values = multihost_utils.broadcast_one_to_all(np.array([*scores.values()], np.float32))
    return dict(zip(scores, values.tolist(), strict=True))


def _validated(run: dict[str, Any]) -> list[tuple[int, float]]:
    """Steps and losses of the validations so far; none in what older versions saved."""
    return [(step, loss) for step, loss in run.get("validated", ())]


def _best(validated: list[tuple[int, float]]) -> int:
    """The step of the lowest loss, the last of equals, as checkpoints are kept."""
    return min(reversed(validated), key=lambda pair: pair[1])[0]


def _is_over(validated: list[tuple[int, float]], patience: int) -> bool:
    """Whether as many validations as `patience` have brought nothing better."""
    if not patience or not validated:
        return False
    return sum(step > _best(validated) for step, _ in validated) >= patience


def _check_finite(state: TrainState, step: int) -> None:
    if not _all_finite(state):
        raise UserError(f"A parameter is not finite at step {step}; {_DIVERGED}")


@jax.jit
def _all_finite(state: TrainState) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


def _plain(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics as JSON holds them."""
    return jax.tree.map(lambda value: np.asarray(value).tolist(), jax.device_get(metrics))


def _digest(streams: list[Stream]) -> str:
    """Names the data by the first sample of each stream."""
    digest = hashlib.sha256()
    for samples, weight in streams:
        leaves, structure = jax.tree.flatten(samples[0])
        digest.update(f"{weight} {structure}".encode())
        for leaf in leaves:
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _show(task: Task, state: TrainState, monitor: Monitor, step: int) -> None:
    """Pictures and histograms; the first process makes them, on its own devices."""
    samples, ema = histogram_samples(state.params), state.ema
    if jax.process_count() > 1:
        samples, ema = multihost_utils.process_allgather((samples, ema), tiled=True)
    if jax.process_index() == 0:
        monitor.histograms(step, by_path(jax.device_get(samples), "parameters/"))
        monitor.images(step, task.images(replace(state, ema=ema)))
