"""Saving and restoring train states; the only module that knows Orbax."""

import errno
import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from femur_jax.errors import UserError
from femur_jax.files import verify_checksums, write_checksums
from femur_jax.training.state import TrainState

BEST = "loss"
"""The metric of which the checkpoint with the lowest value is kept, where a model has it."""

_ITEMS = ("state", "run")
_NO_SPACE = ("RESOURCE_EXHAUSTED: Error writing", os.strerror(errno.ENOSPC))


class Restored(NamedTuple):
    """A checkpoint."""

    state: TrainState
    run: dict[str, Any]
    """What the loop saved beside the state, as JSON brings it back."""


class Checkpoints:
    """The best and the newest checkpoints of a run, written in the background.

    Each holds SHA256SUMS of its files, written before it gets its name. Where a file of the newest
    one is missing or has changed, the one before is used.
    """

    def __init__(self, folder: Path, *, keep: int = 2, read_only: bool = False):
        """Opens or begins a run's checkpoints.

        Args:
            folder: Holds a folder for each.
            keep: How many of the newest stay.
            read_only: For one who only restores, perhaps while the run goes on.
        """
        self._folder = folder.absolute()
        self._read_only = read_only
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
        """The steps of which there is a checkpoint, whole or not."""
        return sorted(self._manager.all_steps())

    def save(
        self, state: TrainState, step: int, run: dict[str, Any], metrics: dict[str, float]
    ) -> None:
        """Begins to save; the next call and `close` wait for it.

        Args:
            state: What to save.
            step: Names it.
            run: Anything that JSON can hold, to be given back beside the state.
            metrics: Where they hold BEST, it decides which checkpoint is the best.

        Raises:
            UserError: The disk was full, now or in the background.
        """
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run))
        try:
            self._manager.save(
                step, args=args, metrics={BEST: metrics.get(BEST, math.inf)}, force=True
            )
        except Exception as error:
            raise self._told(error) from error

    def restore(self, abstract_state: Any, *, prefer: int | None = None) -> Restored | None:
        """The newest whole checkpoint, none where there is no checkpoint at all.

        Newer ones are deleted, unless opened read-only: the run will come to their steps again.

        Args:
            abstract_state: Shapes, types and shardings of the state, as they shall be; the
                sharding may be another than when it was saved.
            prefer: The step of the checkpoint to take instead of the newest, if it is whole.

        Raises:
            UserError: No checkpoint is whole, or they are of another model.
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
        self._check_model(step, abstract_state)
        if not self._read_only:
            for damaged in [other for other in steps if other > step]:
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

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
            UserError: The disk was full.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._told(error) from error
        finally:
            self._manager.close()

    def _newest_whole(self, steps: list[int]) -> int:
        """-1 where there is none; only the first process looks, for all."""
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
                f"The checkpoint of step {step} in {self._folder} is of another model: it differs "
                f"in {len(names)} arrays, first in {names[0]}; use the config and the version of "
                "this program that it was trained with, or another --workdir."
            )

    def _seal(self) -> None:
        """Writes the checksums of a checkpoint that is written, before it gets its final name."""
        for item in _ITEMS:
            for folder in self._folder.glob(f"*.orbax-checkpoint-tmp/{item}"):
                write_checksums(folder)

    def _told(self, error: Exception) -> Exception:
        """The error as a user's mistake, where it is one: Orbax passes on nothing but its text."""
        texts, cause = "", error
        while cause is not None:
            texts, cause = f"{texts} {cause}", cause.__cause__ or cause.__context__
        if not any(text in texts for text in _NO_SPACE):
            return error
        return UserError(
            f"The disk of {self._folder} is full, so the newest checkpoint was not written; the "
            "ones before it are whole. Free some space and start the run again."
        )


class Snapshots:
    """Moving averages of a run at several steps, all of them kept; see `ema.reconstruct`."""

    def __init__(self, folder: Path):
        self._manager = ocp.CheckpointManager(folder.absolute())

    @property
    def steps(self) -> list[int]:
        """Of the complete snapshots, in order."""
        return sorted(self._manager.all_steps())

    def save(self, ema: Any, step: int) -> None:
        """Begins to save; a run that comes by a step again leaves its snapshot as it is."""
        self._manager.save(step, args=ocp.args.StandardSave(ema))

    def restore(self, step: int, like: Any) -> Any:
        """A snapshot, with the shapes, types and shardings of `like`."""
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _best(metrics: dict[str, float]) -> float:
    return metrics[BEST]


def _shapes(tree: Any) -> dict[str, tuple]:
    """Shape and type of each array by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), leaf.dtype)
        for path, leaf in leaves
    }
