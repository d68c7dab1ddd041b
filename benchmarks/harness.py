"""Named measurements, their records, and the table made of them."""

import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from femur_jax.files import write_atomically

_VERSIONS = ("jax", "flax", "optax", "numpy")


@dataclass(frozen=True)
class Goal:
    """A bound that a value shall keep, such as >= 1."""

    relation: str
    """">=" or "<="."""
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.relation == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


@dataclass(frozen=True)
class Measured:
    """What one measurement found."""

    value: float
    spread: tuple[float, float] | None = None
    """Smallest and largest over the rounds; None where there was one round."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of peers; those of JAX and its libraries are added."""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A function that measures, and what its value shall be."""

    name: str
    about: str
    unit: str
    goal: Goal
    device: Callable[[], str]
    run: Callable[[], Measured]


def cpu() -> str:
    """The processor's name and the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {cores()} cores"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def ratio_over_rounds(
    peer: Sequence[float], own: Sequence[float]
) -> tuple[float, tuple[float, float]]:
    """How many times faster than its peer something is.

    Args:
        peer: Seconds of each round.
        own: The same of what is measured, round by round.

    Returns:
        The ratio of the medians, and the smallest and the largest ratio within a round.
    """
    rounds = [p / o for p, o in zip(peer, own, strict=True)]
    return statistics.median(peer) / statistics.median(own), (min(rounds), max(rounds))


def record(measurement: Measurement, measured: Measured) -> dict[str, Any]:
    """A measurement's entry in results.json."""
    return {
        "name": measurement.name,
        "about": measurement.about,
        "value": measured.value,
        "spread": measured.spread,
        "unit": measurement.unit,
        "goal": str(measurement.goal),
        "met": measurement.goal.met(measured.value),
        "device": measurement.device(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
            **measured.versions,
        },
        "date": datetime.date.today().isoformat(),
        "command": f"make bench ONLY={measurement.name}",
        "details": measured.details,
    }
