"""What a run reports: TensorBoard events, JSON lines, and a progress bar."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jaxtyping import PyTree
from ml_collections import ConfigDict

from femur_jax.files import write_atomically
from femur_jax.progress import Progress
from femur_jax.training.trees import by_path

SCALARS = "scalars.jsonl"
SPEED = "speed.jsonl"
PARAMETERS = "parameters.txt"
PICTURES = "samples.png"

PEAK_FLOPS = {"NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12}
"""Floating-point operations a second of dense bfloat16, by the beginning of a device's name
(NVIDIA's data sheets, SXM modules)."""

_PROFILED_AFTER = 10  # steps, which include compilation and warming up
_HISTOGRAM_SAMPLES = 1000


class Monitor:
    """Writes a run's logs; only process 0 writes.

    Scalars also go to `scalars.jsonl` in the folder, one object a line, with the key `step`; the
    report draws its curves from this file. The newest of the pictures named `samples` go to
    `samples.png`, side by side. Numbers that differ between two runs of the same config
    (steps per second, share of time spent waiting for data, memory in GiB, share of the devices'
    peak) go to `speed.jsonl`.
    """

    def __init__(self, folder: Path, *, name: str, start: int, steps: int, profile: int = 0):
        """Opens the logs and removes the lines of steps that will be run again.

        Args:
            folder: The folder of the logs.
            name: A name in front of the progress bar.
            start: The step that the run continues from.
            steps: The step that it ends at.
            profile: The number of steps to trace with JAX's profiler, for TensorBoard.
        """
        self._folder = folder
        self._writes = jax.process_index() == 0
        self._logged = start
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
        self._bar = Progress(
            desc=name, total=steps, initial=start, unit="step", disable=not self._writes
        )

    def describe(self, config: ConfigDict, params: PyTree) -> None:
        """Logs the config, and the name, shape and sharding of each parameter."""
        if not self._writes:
            return
        overview = parameter_overview.get_parameter_overview(params, include_stats="sharding")
        (self._folder / PARAMETERS).write_text(overview + "\n")
        if self._events:
            text = json.dumps(config.to_dict(), indent=1, sort_keys=True)
            self._events.write_texts(0, {"config": _code(text), "parameters": _code(overview)})
            self._events.write_hparams(_hyperparameters(config))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within `with` as waiting for data."""
        start_time = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start_time

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time within `with`, such as for sampling, out of the training speed."""
        start_time = time.perf_counter()
        yield
        self._since += time.perf_counter() - start_time

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
            step: The step that they belong to.
            values: The numbers by name.
            flops_per_step: Floating-point operations of a device in one step; 0 where unknown.
        """
        if not self._writes:
            return
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, False)
        self._write(SCALARS, step, values)
        now = time.perf_counter()
        steps_per_second = (step - self._logged) / (now - self._since)
        speed = {
            "steps_per_second": steps_per_second,
            "input_wait_share": self._waited / (now - self._since),
            "host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        speed |= _device_speed(flops_per_step * steps_per_second)
        self._write(SPEED, step, speed)
        self._logged, self._since, self._waited = step, now, 0.0

    def evaluation(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """Logs the numbers of an evaluator, each as `NAME/NUMBER`."""
        if self._writes:
            self._write(SCALARS, step, {f"{name}/{key}": v for key, v in values.items()})

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Logs batches of grey images with values in [0, 1], shape (n, height, width, 1)."""
        if self._events:
            self._events.write_images(step, images)
        if self._writes and "samples" in images:
            row = np.hstack([*images["samples"][..., 0]])
            picture = imagecodecs.png_encode(np.uint8(255 * np.clip(row, 0, 1)))
            write_atomically(self._folder / PICTURES, bytes(picture))

    def histograms(self, step: int, samples: Mapping[str, np.ndarray]) -> None:
        """Logs the distributions of some values."""
        if self._events:
            self._events.write_histograms(step, samples)

    def close(self) -> None:
        """Writes what is still in memory and closes the logs."""
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
    """Returns the scalars that a run has logged in a folder, none where it has not begun."""
    return _read(folder / SCALARS)


def read_speed(folder: Path) -> list[dict[str, Any]]:
    """Returns the speeds that a run has logged in a folder, likewise."""
    return _read(folder / SPEED)


@jax.jit
def histogram_samples(params: PyTree) -> PyTree:
    """Returns evenly spaced values of each array, about a thousand."""

    def samples(array: jax.Array) -> jax.Array:
        return array.ravel()[:: max(array.size // _HISTOGRAM_SAMPLES, 1)].astype(jnp.float32)

    return jax.tree.map(samples, params)


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def event_writer(folder: Path):
    """Returns CLU's TensorBoard writer, which takes several seconds to import TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow prints a notice otherwise
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
    """Memory and speed of a device, where known."""
    device = jax.local_devices()[0]
    numbers = {}
    if stats := device.memory_stats():
        numbers["device_peak_gib"] = stats["peak_bytes_in_use"] / 2**30
    if flops:
        numbers["tflops_per_device"] = flops / 1e12
    for name, peak in PEAK_FLOPS.items():
        if flops and device.device_kind.startswith(name):
            numbers["share_of_peak"] = flops / peak
    return numbers


def _code(text: str) -> str:
    """Text in a form that TensorBoard shows unchanged."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _hyperparameters(config: ConfigDict) -> dict[str, Any]:
    """A config's fields in types that TensorBoard's table accepts."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in by_path(config.to_dict()).items()
    }
