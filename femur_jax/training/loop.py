"""The training loop of every model."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from femur_jax.data.loader import batches
from femur_jax.errors import UserError
from femur_jax.parallel.distributed import Preempted, StopRequest, texts_of_all
from femur_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from femur_jax.run_folder import claim
from femur_jax.training.checkpoint import BEST, Checkpoints, Restored, Snapshots
from femur_jax.training.early_stopping import EarlyStopping
from femur_jax.training.evaluator import Evaluator
from femur_jax.training.memory import check_memory, device_memory
from femur_jax.training.monitor import Monitor, histogram_samples
from femur_jax.training.program import Program
from femur_jax.training.state import TrainState
from femur_jax.training.task import Task
from femur_jax.training.transfer import transfer
from femur_jax.training.trees import by_path

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

_DIVERGED = (
    "the training diverged, and nothing after the last checkpoint is saved; train again in "
    "another --workdir with a smaller learning rate."
)


def train(
    task: Task,
    config: ConfigDict,
    folder: Path,
    evaluators: Sequence[Evaluator] = (),
    prepare: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
    """Trains to the last step, from the newest whole checkpoint where there is one.

    Args:
        task: The model, its data and its update.
        config: The config of the run, with `seed`, `mesh` (data, fsdp, model), `profile` and
            `train`: steps, batch_size, log_every, checkpoint_every, images_every and, where a
            model has them, accumulate (the number of microbatches), snapshot_every (of the moving
            averages) and patience (see `EarlyStopping`).
        folder: The run directory, which gets the logs, `checkpoints/` and `snapshots/`.
        evaluators: Measurements of the model while it trains.
        prepare: Function that changes the state before the first step, as `start_from` does; None
            where the parameters are random.

    Raises:
        UserError: The mesh, the batch and the devices' memory do not fit, a class has no data, the
            folder belongs to another config, data or model, the loss is no longer finite, or the
            disk is full.
        Preempted: A SIGTERM came; the last step is saved.
    """
    # The run directory, the program, and where to continue.
    mesh = make_mesh(config.mesh)
    microbatches = config.train.get("accumulate", 1)
    check_batch_size(config.train.batch_size, mesh, microbatches)
    program = Program(task, mesh)
    check_memory(config, program, task.sample_bytes, device_memory())
    streams, digest = task.streams(), task.data_digest()
    claim(folder, config, stage="train", free=FREE_FIELDS, keep_free=True)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    saved = checkpoints.restore(program.state_shapes)
    steps, start, pending, losses = config.train.steps, 0, [], ()
    if saved is not None:
        _check_data(saved, digest, folder)
        start, pending = saved.run["next_batch"], saved.run["metrics"]
        losses = saved.run.get("validated", ())
    stopping = EarlyStopping(config.train.get("patience", 0), losses)
    if saved is not None and (start >= steps or stopping.is_over):
        checkpoints.close()
        return saved.state
    if saved is not None and (old_steps := saved.run.get("steps", steps)) != steps:
        _report_learning_rate(task, start, old_steps=old_steps, steps=steps)
    if saved is not None:
        state = saved.state
    else:
        state = program.init(jax.random.key(config.seed))
        state = prepare(state) if prepare else state

    # The data from there on, and the logs.
    stream = batches(
        streams,
        batch_size=config.train.batch_size,
        start=start,
        sharding=batch_sharding(mesh),
    )
    key = program.key(config.seed)
    snapshot_every = config.train.get("snapshot_every", 0)
    snapshots = Snapshots(folder / SNAPSHOTS) if snapshot_every else None
    monitor = Monitor(
        folder, name=f"train {task.name}", start=start, steps=steps, profile=config.profile
    )
    monitor.describe(config, state.params)

    with contextlib.ExitStack() as stack:
        for resource in (snapshots, checkpoints, monitor):
            if resource is not None:
                stack.callback(resource.close)
        stop = stack.enter_context(StopRequest())
        for step in range(start + 1, steps + 1):
            # Update.
            with monitor.waiting():
                batch = next(stream)
            with jax.transfer_guard("disallow"):
                state, metrics = program.update(state, batch, key)
            pending.append(metrics)
            monitor.advance(step)

            # Evaluate.
            scores: dict[str, float] = {}
            for evaluator in evaluators:
                if step == steps or _is_due(step, evaluator.every):
                    _check_finite(state, step)
                    with monitor.paused():
                        numbers = _evaluate(evaluator, state)
                    monitor.evaluation(step, evaluator.name, numbers)
                    scores |= numbers
            if BEST in scores:
                stopping.add(step, scores[BEST])
            last = step == steps or stopping.is_over
            stopped = not last and stop.reached(step)

            # Log and save.
            if last or _is_due(step, config.train.log_every):
                means = _mean(pending, step)
                monitor.scalars(step, means, flops_per_step=program.flops * microbatches)
                pending = []
            is_due = last or _is_due(step, config.train.checkpoint_every)
            saves = is_due or stopped or BEST in scores
            takes_snapshot = snapshots is not None and _is_due(step, snapshot_every)
            if saves or takes_snapshot:
                _check_finite(state, step)
                _finite(pending, step)
            if saves:
                run = {
                    "next_batch": step,
                    "steps": steps,
                    "data": digest,
                    "metrics": _as_json(pending),
                    "validated": stopping.losses,
                }
                checkpoints.save(state, step, run, scores)
            if snapshots and takes_snapshot:
                snapshots.save(state.ema, step)
            if stopped:
                raise Preempted
            if last or _is_due(step, config.train.images_every):
                with monitor.paused():
                    _show(task, state, monitor, step)
            if last:
                break
    if jax.process_index() == 0 and stopping.is_over:
        print(f"Stopped at step {step}: no evaluation was better than that of {stopping.best}.")
    return state


def start_from(folder: Path, state: TrainState) -> TrainState:
    """Starts a run with what fits of another run's newest parameters and averages, and prints it.

    Args:
        folder: Run directory of a model of other data, or of another size.
        state: The state before the first step.

    Raises:
        UserError: The run has no whole checkpoint, or nothing in it fits.
    """
    if not (folder / CHECKPOINTS).is_dir():
        raise UserError(f"{folder} holds no checkpoint (config.pretrained); train it first.")
    checkpoints = Checkpoints(folder / CHECKPOINTS, read_only=True)
    step, arrays = checkpoints.matching(state)
    checkpoints.close()
    return transfer(state, arrays, f"step {step} of {folder}")


def _is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps does now; never where that is 0."""
    return every > 0 and step % every == 0


def restore(task: Task, config: ConfigDict, folder: Path) -> TrainState:
    """Returns a run's best state by its evaluations, or else its newest whole one.

    Raises:
        UserError: The run has no whole checkpoint.
    """
    saved = None
    if (folder / CHECKPOINTS).is_dir():
        shapes = Program(task, make_mesh(config.mesh)).state_shapes
        checkpoints = Checkpoints(folder / CHECKPOINTS, read_only=True)
        saved = checkpoints.restore(shapes)
        if saved and (best := EarlyStopping(losses=saved.run.get("validated", ())).best):
            saved = checkpoints.restore(shapes, prefer=best)
        checkpoints.close()
    if saved is None:
        raise UserError(f"{folder} holds no checkpoint; run the training first.")
    return saved.state


def _check_data(saved: Restored, digest: str, folder: Path) -> None:
    if saved.run["data"] != digest:
        raise UserError(
            f"{folder} was trained on other data than the dataset holds now; "
            "name another --workdir, or restore the data."
        )


def _report_learning_rate(task: Task, step: int, *, old_steps: int, steps: int) -> None:
    """Prints how the learning rate continues in a run whose length has changed."""
    if jax.process_index() > 0:
        return
    before, after = task.learning_rate(step, old_steps), task.learning_rate(step, steps)
    if before == after:
        change = f"unchanged, {after:.3g}"
    else:
        end = task.learning_rate(steps, steps)
        change = f"{after:.3g} instead of {before:.3g}, and {end:.3g} at the end"
    print(
        f"The run ends at step {steps} instead of {old_steps}. "
        f"Learning rate at step {step}: {change}."
    )


def _evaluate(evaluator: Evaluator, state: TrainState) -> Mapping[str, float]:
    """The first process's numbers, so that all processes stop at the same step."""
    state = _with_whole_averages(state)
    numbers = evaluator.run(state) if jax.process_index() == 0 else {}
    if jax.process_count() > 1:
        numbers = json.loads(texts_of_all(json.dumps(dict(numbers)))[0])
    return numbers


def _show(task: Task, state: TrainState, monitor: Monitor, step: int) -> None:
    """Logs pictures and histograms, which the first process makes on its own devices."""
    samples, state = histogram_samples(state.params), _with_whole_averages(state)
    if jax.process_count() > 1:
        samples = multihost_utils.process_allgather(samples, tiled=True)
    if jax.process_index() == 0:
        monitor.histograms(step, by_path(jax.device_get(samples), "parameters/"))
        monitor.images(step, task.images(state))


def _with_whole_averages(state: TrainState) -> TrainState:
    """The state with moving averages that every process holds as a whole."""
    if jax.process_count() == 1:
        return state
    ema = multihost_utils.process_allgather(state.ema, tiled=True)
    return replace(state, ema=jax.tree.map(jnp.asarray, ema))


def _mean(metrics: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Means over the steps since the last call, without metrics that nothing was counted for.

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
        UserError: A number is not finite; the message names the step and the metrics.
    """
    rows = jax.device_get(metrics)
    for number, row in enumerate(rows, start=step - len(rows) + 1):
        broken = {name: v for name, v in row.items() if not np.isfinite(v).all()}
        if broken:
            value = np.ravel(next(iter(broken.values())))[0]
            raise UserError(f"{', '.join(broken)}: {value} at step {number}; {_DIVERGED}")
    return rows


def _check_finite(state: TrainState, step: int) -> None:
    if not _all_finite(state):
        raise UserError(f"A parameter is not finite at step {step}; {_DIVERGED}")


@jax.jit
def _all_finite(state: TrainState) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


def _as_json(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return jax.tree.map(lambda value: np.asarray(value).tolist(), jax.device_get(metrics))
