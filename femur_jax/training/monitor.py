"""What a run tells: TensorBoard events, JSON lines, and a progress bar."""

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jaxtyping import PyTree
from ml_collections import ConfigDict
from tqdm import tqdm

SCALARS = "scalars.jsonl"
SPEED = "speed.jsonl"
PARAMETERS = "parameters.txt"

PEAK_FLOPS = {"NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12}
"""Of a device, dense bfloat16, by the begin of its name (NVIDIA's data sheets, SXM modules)."""

_PROFILED_AFTER = 10  # steps, when compilation and warming up are over
_HISTOGRAM_SAMPLES = 1000


class Monitor:
    """Writes what a run tells; only process 0 writes.

    Scalars also go to `scalars.jsonl` in the folder, one object a line, with the key `step`:
    the report's curves are drawn from it. What differs from one run to the next of the same
    config (steps per second, share of time spent waiting for data, memory in GiB, share of the
    devices' peak) goes to `speed.jsonl`.
    """

    def __init__(self, folder: Path, *, name: str, start: int, steps: int, profile: int = 0):
        """Opens the logs and drops lines of steps that will be run again.

        Args:
            folder: Where the logs go.
            name: Shown before the progress bar.
            start: The step that the run continues from.
            steps: The step that it ends at.
            profile: How many steps to trace with JAX's profiler, for TensorBoard.
        """
        self._folder = folder
        self._writes = jax.process_index() == 0
        self._told = start
        self._since = time.perf_counter()
        self._waited = 0.0
        self._profiled = range(start + _PROFILED_AFTER, start + _PROFILED_AFTER + profile)
        self._profiling = False
        self._events = None
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            for file in (SCALARS, SPEED):
                kept = [line for line in _read(folder / file) if line["step"] <= start]
                (folder / file).write_text("".join(json.dumps(line) + "\n" for line in kept))
            self._events = event_writer(folder)
        self._bar = tqdm(desc=name, total=steps, initial=start, disable=not self._writes)

    def describe(self, config: ConfigDict, params: PyTree) -> None:
        """Tells what is trained: the config, and name, shape and place of each parameter."""
        if not self._writes:
            return
        overview = parameter_overview.get_parameter_overview(params, include_stats="sharding")
        (self._folder / PARAMETERS).write_text(overview + "\n")
        if self._events:
            text = json.dumps(config.to_dict(), indent=1, sort_keys=True)
            self._events.write_texts(0, {"config": _code(text), "parameters": _code(overview)})
            self._events.write_hparams(_hyperparameters(config))

    def waited(self, seconds: float) -> None:
        """Notes that the next step's data was waited for."""
        self._waited += seconds

    def advance(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._bar.update(step - self._bar.n)
        if self._writes and step in self._profiled and not self._profiling:
            jax.profiler.start_trace(str(self._folder))
            self._profiling = True
        elif step not in self._profiled:
            self._end_profile()

    def scalars(
        self, step: int, values: Mapping[str, float], *, flops_per_step: float = 0.0
    ) -> None:
        """Logs named numbers, and the speed since the last call.

        Args:
            step: That they belong to.
            values: The numbers.
            flops_per_step: Floating-point operations of a device in one step; 0 where unknown.
        """
        if not self._writes:
            return
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, False)
        self._write(SCALARS, step, values)
        now = time.perf_counter()
        steps_per_second = (step - self._told) / (now - self._since)
        speed = {
            "steps_per_second": steps_per_second,
            "input_wait_share": self._waited / (now - self._since),
            "host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        speed |= _device_speed(flops_per_step * steps_per_second)
        self._write(SPEED, step, speed)
        self._told, self._since, self._waited = step, now, 0.0

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Logs named numbers over data that is not trained on, under `validation/`."""
        if self._writes:
            named = {f"validation/{name}": value for name, value in values.items()}
            self._write(SCALARS, step, named)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Logs batches of grey images with values in [0, 1], shape (n, height, width, 1)."""
        if self._events:
            self._events.write_images(step, images)

    def histograms(self, step: int, samples: Mapping[str, np.ndarray]) -> None:
        """Logs distributions."""
        if self._events:
            self._events.write_histograms(step, samples)

    def exclude(self, seconds: float) -> None:
        """Leaves out of the speed what was no training, such as sampling."""
        self._since += seconds

    def close(self) -> None:
        """Flushes everything."""
        self._end_profile()
        self._bar.close()
        if self._events:
            self._events.close()

    def _end_profile(self) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
            self._profiling = False

    def _write(self, file: str, step: int, values: Mapping[str, float]) -> None:
        with (self._folder / file).open("a") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        if self._events:
            self._events.write_scalars(step, values)


def read_scalars(folder: Path) -> list[dict[str, Any]]:
    """The scalars that a run has logged in a folder, none where it has not begun."""
    return _read(folder / SCALARS)


@jax.jit
def histogram_samples(params: PyTree) -> PyTree:
    """Evenly spaced values of each array, a thousand of it or a few more."""

    def samples(array: jax.Array) -> jax.Array:
        return array.ravel()[:: max(array.size // _HISTOGRAM_SAMPLES, 1)].astype(jnp.float32)

    return jax.tree.map(samples, params)


def by_path(tree: PyTree, prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by their path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        prefix + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def event_writer(folder: Path):
    """CLU's TensorBoard writer, which needs TensorFlow (several seconds to import)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself otherwise
    try:
        from clu import metric_writers
    except ImportError:
        print(
            f"femur_jax: TensorFlow is not installed: no TensorBoard events, only {SCALARS}.",
            file=sys.stderr,
        )
        return None
    return metric_writers.SummaryWriter(str(folder))


def _device_speed(flops: float) -> dict[str, float]:
    """Memory of a device, and what it does a second, where known."""
    device = jax.local_devices()[0]
    found = {}
    if stats := device.memory_stats():
        found["device_peak_gib"] = stats["peak_bytes_in_use"] / 2**30
    if flops:
        found["tflops_per_device"] = flops / 1e12
    for name, peak in PEAK_FLOPS.items():
        if flops and device.device_kind.startswith(name):
            found["share_of_peak"] = flops / peak
    return found


def _code(text: str) -> str:
    """Text as TensorBoard shows it unchanged."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _hyperparameters(config: ConfigDict) -> dict[str, Any]:
    """A config's fields, of the types that TensorBoard's table takes."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in by_path(config.to_dict()).items()
    }
