"""Saving and restoring train states; the only module that knows Orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from femur_jax.training.state import TrainState


class Checkpoints:
    """The latest checkpoints of a run, written in the background."""

    def __init__(self, folder: Path, *, keep: int = 2):
        """Opens or begins a run's checkpoints, of which the newest `keep` stay."""
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int) -> None:
        """Begins to save; the next call and `close` wait for it."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, abstract_state: Any) -> Any:
        """The newest checkpoint, with the shapes, types and shardings of `abstract_state`."""
        return self._manager.restore(
            self._manager.latest_step(), args=ocp.args.StandardRestore(abstract_state)
        )

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


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
