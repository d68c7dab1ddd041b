"""Measurements, their results, and the files that keep the newest result of each."""

import inspect
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from femur_jax.errors import UserError
from femur_jax.files import write_atomically


@dataclass(frozen=True)
class Goal:
    """A bound that a value should keep, such as >= 1.

    Attributes:
        relation: Either ">=" or "<=".
        bound: The bound in the value's unit.
    """

    relation: str
    bound: float

    def met(self, value: float) -> bool:
        """Whether the value keeps to the bound."""
        return value >= self.bound if self.relation == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a measurement returns.

    Attributes:
        value: The measured value in the measurement's unit.
        device: The device that the measured code ran on.
        spread: Smallest and largest value over the rounds; None for a single round.
        versions: Versions of the libraries that matter.
        details: Further numbers by name, as JSON holds them.
    """

    value: float
    device: str
    spread: tuple[float, float] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record(Result):
    """The newest result of one measurement on one device.

    Attributes:
        name: The measurement's name.
        date: Day of the measurement, ISO 8601.
    """

    name: str
    date: str


@dataclass(frozen=True)
class Measurement:
    """A function that measures, and the goal of its value.

    Attributes:
        name: Name of the function.
        about: The function's docstring: what is measured and how.
        unit: Unit of the value; "x" for a ratio.
        goal: Bound that the value should keep.
        gpu: Whether the measurement needs a GPU.
        plugin: Whether it needs JAX's CUDA plugin, which compiles for a GPU that is not there.
        timed: Whether the value depends on time, so that the machine must be idle.
        run: The function itself.
    """

    name: str
    about: str
    unit: str
    goal: Goal
    gpu: bool
    plugin: bool
    timed: bool
    run: Callable[[], Result]


def measurement(
    unit: str, goal: Goal, *, gpu: bool = False, plugin: bool = False, timed: bool = True
) -> Callable[[Callable[[], Result]], Measurement]:
    """Makes a function a measurement of the same name; RESULTS.md shows its docstring."""

    def decorate(run: Callable[[], Result]) -> Measurement:
        about = inspect.getdoc(run) or ""
        return Measurement(run.__name__, about, unit, goal, gpu, plugin, timed, run)

    return decorate


def measurements_in(modules: Iterable[ModuleType]) -> dict[str, Measurement]:
    """All measurements of some modules, by name."""
    return {
        item.name: item
        for module in modules
        for item in vars(module).values()
        if isinstance(item, Measurement)
    }


def ratio_of_rounds(
    peer: Sequence[float], ours: Sequence[float]
) -> tuple[float, tuple[float, float]]:
    """How many times faster than its peer femur_jax is.

    Args:
        peer: Seconds of the peer in each round.
        ours: Seconds of femur_jax in the same rounds.

    Returns:
        The ratio of the medians; the smallest and the largest ratio within a round.
    """
    ratios = [p / o for p, o in zip(peer, ours, strict=True)]
    return statistics.median(peer) / statistics.median(ours), (min(ratios), max(ratios))


def read(path: Path) -> list[Record]:
    """The records in a file; an empty list without the file."""
    if not path.is_file():
        return []
    return [
        Record(**entry | {"spread": entry["spread"] and tuple(entry["spread"])})
        for entry in json.loads(path.read_text())
    ]


def merge(records: Sequence[Record], new: Record) -> list[Record]:
    """Adds a record, which replaces the one of the same name and device; sorted by these."""
    merged = {(record.name, record.device): record for record in records}
    merged[new.name, new.device] = new
    return [merged[key] for key in sorted(merged)]


def write(records: Sequence[Record], path: Path) -> None:
    """Writes records to a file, which `read` reads."""
    entries = [{"name": record.name, "date": record.date} | asdict(record) for record in records]
    write_atomically(path, json.dumps(entries, indent=1) + "\n")


def markdown(
    records: Sequence[Record],
    measurements: Mapping[str, Measurement],
    *,
    title: str,
    target: str,
) -> str:
    """A page with a table of all records, and a section on each.

    Args:
        records: The records to show.
        measurements: The measurements by name, which give the text.
        title: Heading of the page.
        target: The target of make that measures.

    Raises:
        UserError: A record belongs to a measurement that does not exist.
    """
    if unknown := sorted({record.name for record in records} - measurements.keys()):
        raise UserError(
            f"results.json has records of {', '.join(unknown)}, which `make {target}` does not "
            "measure; delete them from the file."
        )
    lines = [
        f"# {title}",
        "",
        f"Generated from results.json and docstrings by `make {target}`; do not edit.",
        "",
        "| Measurement | Value | Smallest to largest | Goal | Met | Device | Date |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in records:
        measured = measurements[record.name]
        spread, goal = record.spread, measured.goal
        value = f"{record.value:.4g} {measured.unit}".strip()
        extent = "one round" if spread is None else f"{spread[0]:.4g} to {spread[1]:.4g}"
        met = "yes" if goal.met(record.value) else "no"
        cells = (record.name, value, extent, str(goal), met, record.device, record.date)
        lines.append(f"| {' | '.join(cells)} |")
    for record in records:
        about = measurements[record.name].about
        versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
        lines += ["", f"## {record.name} on {record.device}", "", about, ""]
        lines += [f"Run `make {target} ONLY={record.name}`.", ""]
        lines += [f"- {name}: {_formatted(value)}" for name, value in record.details.items()]
        lines += [f"- versions: {versions}"]
    return "\n".join(lines) + "\n"


def _formatted(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else (("", item) for item in value)
        return ", ".join(
            f"{name} ({text})".strip() if "," in text else f"{name} {text}".strip()
            for name, item in items
            if (text := _formatted(item))
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)
