"""Saving and restoring train states; the only module that knows Orbax."""

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from femur_jax.errors import UserError
from femur_jax.files import is_disk_full, verify_checksums, write_checksums
from femur_jax.training.state import TrainState
from femur_jax.training.transfer import fits
from femur_jax.training.trees import by_path, nested

BEST = "loss"
"""The metric that chooses the best checkpoint, the one with the lowest value."""

_ITEMS = ("state", "run")
_report_unraisable = sys.unraisablehook


class Restored(NamedTuple):
    """A checkpoint that was read."""

    state: TrainState
    run: dict[str, Any]
    """The JSON object that was saved with the state."""


class Checkpoints:
    """The best and the newest checkpoints of a run, written in the background.

    Each holds SHA256SUMS of its files, written before it gets its final name. Where a file of the
    newest checkpoint is missing or has changed, the one before is used.
    """

    def __init__(self, folder: Path, *, keep: int = 2, read_only: bool = False):
        """Opens or creates the folder of a run's checkpoints.

        Args:
            folder: A folder with a folder for each checkpoint.
            keep: The number of the newest checkpoints to keep.
            read_only: Whether to restore only, perhaps while the run continues.
        """
        self._folder = folder.absolute()
        self._read_only = read_only
        sys.unraisablehook = _report_others
        keeps = [
            policies.LatestN(keep),
            policies.BestN(get_metric_fn=_best, reverse=True, n=1),
        ]
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(use_compression=False),
                "run": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                best_fn=_best,  # without it the metrics are not written
                best_mode="min",
                preservation_policy=policies.AnyPreservationPolicy(keeps),
                read_only=read_only,
                save_interval_steps=0 if read_only else 1,  # another value is warned of
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    @property
    def steps(self) -> list[int]:
        """The steps with a checkpoint, whole or not."""
        return sorted(self._manager.all_steps())

    def save(
        self, state: TrainState, step: int, run: dict[str, Any], metrics: dict[str, float]
    ) -> None:
        """Starts to save in the background; the next call and `close` wait for it.

        Args:
            state: The state to save.
            step: The step that names the checkpoint.
            run: A JSON object to restore with the state.
            metrics: Numbers of the checkpoint; BEST among them chooses the best checkpoint.

        Raises:
            UserError: The disk was full, now or in the background.
        """
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run))
        try:
            self._manager.save(
                step, args=args, metrics={BEST: metrics.get(BEST, math.inf)}, force=True
            )
        except Exception as error:
            raise self._as_user_error(error) from error

    def restore(self, abstract_state: Any, *, prefer: int | None = None) -> Restored | None:
        """Returns the newest whole checkpoint, None where there are no checkpoints.

        Newer ones are deleted, unless opened read-only: the run will come to their steps again.

        Args:
            abstract_state: The wanted shapes, types and shardings of the state; the shardings may
                differ from those that were saved.
            prefer: The step of the checkpoint to use instead of the newest, if it is whole.

        Raises:
            UserError: No checkpoint is whole, or they belong to another model.
        """
        step = self._step_to_read(prefer)
        if step is None:
            return None
        self._check_model(step, abstract_state)
        if not self._read_only:
            for damaged in [other for other in self.steps if other > step]:
                self._manager.delete(damaged)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    abstract_state,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_state),
                ),
                run=ocp.args.JsonRestore(),
            ),
        )
        return Restored(restored["state"], restored["run"])

    def matching(self, state: TrainState) -> tuple[int, dict[str, jax.Array]]:
        """Parameters and averages of the newest whole checkpoint that a first state can start from.

        Args:
            state: State of a model of other data, or of another size.

        Returns:
            The step of the checkpoint, and its arrays by path; see `transfer.fits`.

        Raises:
            UserError: There is no whole checkpoint.
        """
        step = self._step_to_read()
        if step is None:
            raise UserError(f"There is no checkpoint in {self._folder}; train that model first.")
        saved = _shapes(self._manager.item_metadata(step)["state"].tree)
        wanted = {
            name: jax.ShapeDtypeStruct(
                saved[name][0], array.dtype, sharding=_sharding(array, saved[name][0])
            )
            for name, array in by_path({"params": state.params, "ema": state.ema}).items()
            if name in saved and fits(array, saved[name][0])
        }
        if not wanted:
            return step, {}
        part = nested(wanted)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    part,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(part),
                    partial_restore=True,
                )
            ),
        )["state"]
        return step, by_path(restored)

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
            UserError: The disk was full.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._as_user_error(error) from error
        finally:
            self._manager.close()

    def _step_to_read(self, prefer: int | None = None) -> int | None:
        """The preferred step or the newest whole one; None where there are no checkpoints.

        Raises:
            UserError: No checkpoint is whole.
        """
        steps = sorted(self.steps, key=lambda step: (step == prefer, step))
        if not steps:
            return None
        step = int(multihost_utils.broadcast_one_to_all(np.int32(self._newest_whole(steps))))
        if step < 0:
            raise UserError(
                f"No checkpoint in {self._folder} is whole; delete that folder to start the run "
                "again, or restore it from a copy."
            )
        return step

    def _newest_whole(self, steps: list[int]) -> int:
        """The newest step whose files are whole, or -1; only the first process checks."""
        if jax.process_index() > 0:
            return -1
        for step in reversed(steps):
            try:
                for item in _ITEMS:
                    verify_checksums(self._folder / str(step) / item, ())
                return step
            except UserError:
                print(
                    f"femur_jax: the checkpoint of step {step} in {self._folder} is damaged or "
                    "was not finished; the one before it is used.",
                    file=sys.stderr,
                )
        return -1

    def _check_model(self, step: int, abstract_state: Any) -> None:
        saved = _shapes(self._manager.item_metadata(step)["state"].tree)
        wanted = _shapes(abstract_state)
        if saved != wanted:
            names = sorted(
                name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name)
            )
            raise UserError(
                f"The checkpoint of step {step} in {self._folder} belongs to another model: it "
                f"differs in {len(names)} arrays, first in {names[0]}; use the config and the "
                "version of this program that it was trained with, or another --workdir."
            )

    def _seal(self) -> None:
        """Writes the checksums of a finished checkpoint, before it gets its final name."""
        for item in _ITEMS:
            for folder in self._folder.glob(f"*.orbax-checkpoint-tmp/{item}"):
                write_checksums(folder)

    def _as_user_error(self, error: Exception) -> Exception:
        """A UserError where the disk is full."""
        if not is_disk_full(error):
            return error
        return UserError(
            f"The disk of {self._folder} is full, so the newest checkpoint was not written; the "
            "ones before it are whole. Free some space and start the run again."
        )


class Snapshots:
    """Moving averages of a run at several steps, all of them kept; see `ema.reconstruct`."""

    def __init__(self, folder: Path):
        """Opens or creates the folder of a run's snapshots."""
        self._manager = ocp.CheckpointManager(folder.absolute())

    @property
    def steps(self) -> list[int]:
        """The steps of the complete snapshots, in order."""
        return sorted(self._manager.all_steps())

    def save(self, ema: Any, step: int) -> None:
        """Starts to save in the background; an existing snapshot of the step stays as it is."""
        self._manager.save(step, args=ocp.args.StandardSave(ema))

    def restore(self, step: int, like: Any) -> Any:
        """Returns a snapshot with the shapes, types and shardings of `like`."""
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _report_others(unraisable: Any) -> None:
    """Reports what no caller can catch, without what Orbax leaves when it has failed.

    Once the first of its writers has found the disk full, each of the others finds their event loop
    closed, and would print a traceback.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        _report_unraisable(unraisable)


def _best(metrics: dict[str, float]) -> float:
    return metrics[BEST]


def _shapes(tree: Any) -> dict[str, tuple]:
    """The shape and type of each array by its path."""
    return {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in by_path(tree).items()}


def _sharding(array: jax.Array, shape: tuple[int, ...]) -> jax.sharding.Sharding:
    """The array's sharding, or a copy on each of its devices for one of another shape."""
    if array.shape == shape or not isinstance(array.sharding, jax.sharding.NamedSharding):
        return array.sharding
    return jax.sharding.NamedSharding(array.sharding.mesh, jax.sharding.PartitionSpec())
