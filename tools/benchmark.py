"""Measures femur_jax against its peers and limits, and keeps what was found.

The newest record of each measurement and device is kept in benchmarks/results.json, from which
benchmarks/RESULTS.md is made; records of what is not measured now stay as they are.
"""

import argparse
import datetime
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is not installed

from benchmarks import records
from benchmarks.machine import has_gpu, require_idle
from benchmarks.measurements import MEASUREMENTS, Measurement
from femur_jax.errors import UserError

_RESULTS = Path(__file__).parents[1] / "benchmarks" / "results.json"
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def main(argv: list[str]) -> int:
    """A user's mistake ends with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Measurements: " + ", ".join(MEASUREMENTS) + ". Example: "
        "python tools/benchmark.py --only train_over_torch_cpu",
    )
    parser.add_argument("--only", metavar="NAME", help="this measurement alone")
    parser.add_argument(
        "--results", type=Path, default=_RESULTS, help="the file of records (%(default)s)"
    )
    args = parser.parse_args(argv)
    # Peers, in processes of their own, need memory of the GPU too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        for measurement in selected(args.only):
            print(f"{measurement.name} ...", flush=True)
            new = measure(measurement)
            records.write(records.merge(records.read(args.results), new), args.results)
            kept = "met" if new.goal.met(new.value) else "missed"
            print(f"{new.name}: {new.value:.3g} {new.unit}, goal {new.goal} {kept}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def selected(only: str | None) -> list[Measurement]:
    """The measurements to run: all that this machine can do, or the one that is named.

    Raises:
        UserError: There is none of this name, or it needs a GPU.
    """
    if only is None:
        left_out = [m.name for m in MEASUREMENTS.values() if m.gpu and not has_gpu()]
        if left_out:
            print(f"Left out, since JAX finds no GPU: {', '.join(left_out)}")
        return [m for m in MEASUREMENTS.values() if m.name not in left_out]
    if only not in MEASUREMENTS:
        raise UserError(
            f"There is no measurement {only!r}; the names are {', '.join(MEASUREMENTS)}."
        )
    if MEASUREMENTS[only].gpu and not has_gpu():
        raise UserError(
            f"{only} needs a GPU, and JAX finds none; on a machine with one install jax's CUDA "
            "wheels (see the README)."
        )
    return [MEASUREMENTS[only]]


def measure(measurement: Measurement) -> records.Record:
    """Runs one measurement.

    Raises:
        UserError: The machine was busy before or after, or the measurement's own.
    """
    require_idle()
    found = measurement.run()
    require_idle()
    return records.Record(
        name=measurement.name,
        about=measurement.about,
        value=found.value,
        unit=measurement.unit,
        spread=found.spread,
        goal=measurement.goal,
        device=found.device,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
            **found.versions,
        },
        date=datetime.date.today().isoformat(),
        command=f"make bench ONLY={measurement.name}",
        details=found.details,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
