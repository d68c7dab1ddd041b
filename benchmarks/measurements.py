"""The measurements of `make bench`.

A new one is a function here, decorated with its unit and goal; its docstring is what RESULTS.md
says of it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.records import Goal

MEASUREMENTS: dict[str, "Measurement"] = {}


@dataclass(frozen=True)
class Found:
    """What a measurement returns; see `Record` for the fields."""

    value: float
    device: str
    spread: tuple[float, float] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A function that measures, with what its value shall be."""

    name: str
    about: str
    unit: str
    goal: Goal
    run: Callable[[], Found]


def measurement(unit: str, goal: Goal) -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    """Enters a function into MEASUREMENTS under its own name."""

    def enter(run: Callable[[], Found]) -> Callable[[], Found]:
        name = run.__name__
        MEASUREMENTS[name] = Measurement(name, inspect.getdoc(run) or "", unit, goal, run)
        return run

    return enter


# What measures imports JAX and data sets, which takes seconds and is no part of --help.


@measurement("x", Goal(">=", 1.0))
def train_over_torch_cpu() -> Found:
    """Training steps per second of the tiny denoiser, over those of the same in PyTorch on CPU.

    Both take the whole step (noise, forward, EDM loss, backward, gradient clipping, Adam, moving
    average) on the same batch of 32 patches of 32 x 32 pixels in float32. PyTorch runs eagerly
    with a fused Adam, in the memory format that is faster here, on all cores. Rounds take turns;
    the value is the ratio of the median times. Before, both networks are given the same weights
    and must agree in the output and in its gradient.
    """
    from benchmarks.training import over_torch

    return over_torch()


@measurement("s", Goal("<=", 900.0))
def demo_seconds() -> Found:
    """Wall time of `make demo` in a fresh clone with an empty home folder.

    From the clone of the last commit to the report: making the environment, with the download of
    all packages, and every stage of the study on simulated patients.
    """
    from benchmarks.demo import in_fresh_clone

    return in_fresh_clone()


@measurement("AUC", Goal("<=", 0.6))
def phantom_header_auc() -> Found:
    """How well anything but the look of the bone tells the class of a simulated patient.

    600 patients with two radiographs each on average. Logistic regression and gradient boosting
    guess atypical or normal from header facts (sizes, spacing, bits, window, device, hospital,
    view, age, sex, number of images) and the histogram of grey values, cross-validated by
    patient. The value is the better one's area under the ROC curve, for which 0.5 is chance; the
    range is its 95% interval, by a bootstrap over patients.
    """
    from benchmarks.phantom_fairness import header_auc

    return header_auc()


@measurement("MP/s", Goal(">=", 8.0))
def phantom_mp_per_s() -> Found:
    """Megapixels of simulated radiographs that one core writes in a second.

    24 patients of the full cohort (1 to 15 megapixels, hospitals with all encodings) after 3 that
    do not count, from the body to the DICOM file, in one process with one thread. Seconds are the
    process's own, so other work does not count; the range is that of patients. Stages are timed in
    a second run under a profiler.
    """
    from benchmarks.phantom import one_core

    return one_core()
