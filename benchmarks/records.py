"""What measurements found: results.json, and RESULTS.md made from it."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from femur_jax.files import write_atomically


@dataclass(frozen=True)
class Goal:
    """A bound that a value shall keep, such as >= 1.

    Attributes:
        relation: ">=" or "<=".
        bound: In the value's unit.
    """

    relation: str
    bound: float

    def met(self, value: float) -> bool:
        """Whether the value keeps to the bound."""
        return value >= self.bound if self.relation == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


@dataclass(frozen=True)
class Record:
    """One measurement on one device, the newest.

    Attributes:
        name: Of the measurement.
        about: What was measured, and how.
        value: In `unit`.
        unit: "x" for a ratio.
        spread: Smallest and largest value over the rounds; None of a single round.
        goal: What the value shall be.
        device: That the measured code ran on.
        versions: Of Python and of the libraries that matter.
        date: ISO 8601.
        command: Repeats the measurement.
        details: Whatever else was found, as JSON.
    """

    name: str
    about: str
    value: float
    unit: str
    spread: tuple[float, float] | None
    goal: Goal
    device: str
    versions: dict[str, str]
    date: str
    command: str
    details: dict[str, Any]


def ratio_of_rounds(
    peer: Sequence[float], own: Sequence[float]
) -> tuple[float, tuple[float, float]]:
    """How many times faster than its peer something is.

    Args:
        peer: Seconds in each round.
        own: The same of what is measured, in the same rounds.

    Returns:
        The ratio of the medians; the smallest and the largest ratio within a round.
    """
    ratios = [p / o for p, o in zip(peer, own, strict=True)]
    return statistics.median(peer) / statistics.median(own), (min(ratios), max(ratios))


def read(path: Path) -> list[Record]:
    """The records of a file; none where there is no file."""
    if not path.is_file():
        return []
    return [
        Record(**entry | {"goal": Goal(**entry["goal"]), "spread": _pair(entry["spread"])})
        for entry in json.loads(path.read_text())
    ]


def merge(records: Sequence[Record], new: Record) -> list[Record]:
    """Puts a record in the place of the one of its name and device; sorted by these."""
    kept = {(record.name, record.device): record for record in records}
    kept[new.name, new.device] = new
    return [kept[key] for key in sorted(kept)]


def write(records: Sequence[Record], path: Path) -> None:
    """Writes results.json, and RESULTS.md beside it."""
    write_atomically(path, json.dumps([asdict(record) for record in records], indent=1) + "\n")
    write_atomically(path.with_name("RESULTS.md"), markdown(records))


def markdown(records: Sequence[Record]) -> str:
    """A table of all records, then what is to be said of each."""
    lines = [
        "# Benchmarks",
        "",
        "Made from results.json by `make bench`; do not edit.",
        "",
        "| Measurement | Value | Smallest to largest | Goal | Met | Device | Date |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        spread = "one round" if r.spread is None else f"{r.spread[0]:.3g} to {r.spread[1]:.3g}"
        lines.append(
            f"| {r.name} | {r.value:.3g} {r.unit} | {spread} | {r.goal} "
            f"| {'yes' if r.goal.met(r.value) else 'no'} | {r.device} | {r.date} |"
        )
    for r in records:
        versions = ", ".join(f"{name} {number}" for name, number in r.versions.items())
        lines += ["", f"## {r.name} on {r.device}", "", r.about, "", f"Run `{r.command}`.", ""]
        lines += [f"- {name}: {_show(value)}" for name, value in r.details.items()]
        lines += [f"- versions: {versions}"]
    return "\n".join(lines) + "\n"


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])
