"""What a run tells: TensorBoard events, JSON lines, and a progress bar."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

SCALARS = "scalars.jsonl"


class Monitor:
    """Writes scalars and images of one run; only process 0 writes.

    Scalars also go to `scalars.jsonl` in the folder, one object a line, with the key `step`:
    the report's curves are drawn from it.
    """

    def __init__(self, folder: Path, *, name: str, start: int, steps: int):
        """Opens the logs and drops lines of steps that will be run again.

        Args:
            folder: Where the logs go.
            name: Shown before the progress bar.
            start: The step that the run continues from.
            steps: The step that it ends at.
        """
        self._writes = jax.process_index() == 0
        self._bar = tqdm(desc=name, total=steps, initial=start, disable=not self._writes)
        self._events = None
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._scalars = folder / SCALARS
        kept = [line for line in read_scalars(folder) if line["step"] <= start]
        self._scalars.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._events = _event_writer(folder)

    def advance(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._bar.update(step - self._bar.n)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs named numbers."""
        if not self._writes:
            return
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, False)
        with self._scalars.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events:
            self._events.write_scalars(step, values)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Logs batches of grey images with values in [0, 1], shape (n, height, width, 1)."""
        if self._events:
            self._events.write_images(step, images)

    def close(self) -> None:
        """Flushes everything."""
        self._bar.close()
        if self._events:
            self._events.close()


def read_scalars(folder: Path) -> list[dict[str, Any]]:
    """The scalars that a run has logged in a folder, none where it has not begun."""
    file = folder / SCALARS
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def _event_writer(folder: Path):
    """CLU's TensorBoard writer, which needs TensorFlow (several seconds to import)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself otherwise
    try:
        from clu import metric_writers
    except ImportError:
        logging.warning("TensorFlow is not installed: no TensorBoard events, only %s.", SCALARS)
        return None
    return metric_writers.SummaryWriter(str(folder))
