"""The command of both `make bench` and `make experiment`."""

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks import records
from benchmarks.machine import ROOT, has_gpu, require_idle
from benchmarks.records import Measurement
from femur_jax.errors import UserError
from femur_jax.files import write_atomically

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclass(frozen=True)
class Suite:
    """Measurements whose results stand on one page.

    Attributes:
        title: Heading of RESULTS.md.
        target: The target of make that measures.
        package: The package that measures, whose folder holds results.json and RESULTS.md.
        measurements: The measurements by name.
    """

    title: str
    target: str
    package: str
    measurements: Mapping[str, Measurement]

    def page(self, folder: Path) -> str:
        """The text of RESULTS.md for the results.json in a folder."""
        return records.markdown(
            records.read(folder / "results.json"),
            self.measurements,
            title=self.title,
            target=self.target,
        )


def main(suite: Suite, argv: Sequence[str]) -> int:
    """Measures, or reports a user's mistake in one sentence and returns exit code 2."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {suite.package}",
        description=f"{suite.title}. The newest result of each measurement and device is kept in "
        "results.json, and RESULTS.md is generated from it; results of what is not measured now "
        "stay as they are.",
        epilog=f"Measurements: {', '.join(suite.measurements)}.",
    )
    parser.add_argument("--only", metavar="NAME", help="measure this alone")
    parser.add_argument(
        "--page_only", action="store_true", help="write RESULTS.md again without measuring"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / suite.package.replace(".", "/"),
        help="folder of results.json and RESULTS.md (%(default)s)",
    )
    args = parser.parse_args(argv)
    # Peers run in separate processes and need memory of the GPU too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        for measurement in [] if args.page_only else selected(suite.measurements, args.only):
            print(f"{measurement.name} ...", flush=True)
            new = measure(measurement)
            results = args.folder / "results.json"
            records.write(records.merge(records.read(results), new), results)
            verdict = "met" if measurement.goal.met(new.value) else "missed"
            goal = f"goal {measurement.goal} {verdict}"
            print(f"{new.name}: {new.value:.4g} {measurement.unit}, {goal}")
        write_atomically(args.folder / "RESULTS.md", suite.page(args.folder))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def selected(measurements: Mapping[str, Measurement], only: str | None) -> list[Measurement]:
    """The measurements to run: all that this machine can do, or the named one.

    Raises:
        UserError: The name is unknown, or its measurement needs a GPU.
    """
    if only is None:
        skipped = [m.name for m in measurements.values() if m.gpu and not has_gpu()]
        if skipped:
            print(f"Skipped because JAX finds no GPU: {', '.join(skipped)}")
        compiled = [m.name for m in measurements.values() if m.plugin]
        if compiled and (lack := _lack_of_plugin()):
            print(f"Skipped: {', '.join(compiled)}. {lack}")
            skipped += compiled
        return [m for m in measurements.values() if m.name not in skipped]
    if only not in measurements:
        raise UserError(f"Unknown measurement {only!r}; the names are {', '.join(measurements)}.")
    if measurements[only].gpu and not has_gpu():
        raise UserError(
            f"{only} needs a GPU, and JAX finds none; on a machine with a GPU install jax's CUDA "
            "wheels (see the README)."
        )
    return [measurements[only]]


def _lack_of_plugin() -> str:
    """What is missing to compile for a GPU that is not there; "" where nothing is."""
    from femur_jax.gpu_plan.compiler import check_plugin  # imports every model

    try:
        check_plugin()
    except UserError as error:
        return str(error)
    return ""


def measure(measurement: Measurement) -> records.Record:
    """Runs one measurement.

    Raises:
        UserError: The machine was busy before or after a measurement that depends on time, or the
            measurement itself failed.
    """
    if measurement.timed:
        require_idle()
    result = measurement.run()
    if measurement.timed:
        require_idle()
    versions = {"python": platform.python_version()}
    versions |= {name: version(name) for name in _LIBRARIES}
    return records.Record(
        name=measurement.name,
        value=result.value,
        device=result.device,
        date=datetime.date.today().isoformat(),
        spread=result.spread,
        versions=versions | result.versions,
        details=result.details,
    )
