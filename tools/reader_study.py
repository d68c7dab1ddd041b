"""A reader study: do doctors tell synthetic radiographs from real ones?

Example:
    python tools/reader_study.py power
    python tools/reader_study.py build --real data/femur \\
        --synthetic runs/diffusion/synthetic runs/gan/synthetic --out runs/study1
    python tools/reader_study.py serve runs/study1 --invite reader1 reader2
    python tools/reader_study.py score runs/study1

Ends with 0, or with 2 on bad input.
"""

import argparse
import dataclasses
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from femur_jax.data.cohort import SPLITS
from femur_jax.errors import UserError
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.design import REAL_SOURCE, Design
from femur_jax.reader_study.study import open_study

# What one command needs alone is imported there: a server comes back in a blink, and TFDS and
# scikit-learn take seconds to import.
if TYPE_CHECKING:
    from femur_jax.data.shards import RadiographDataset

_HELP = {
    "seed": "of the choice of radiographs and of every order",
    "single": "radiographs read one at a time, half of them real",
    "repeats": "share of these that come twice",
    "pairs": "pairs of a real and a synthetic radiograph",
    "practice": "radiographs to practise with",
    "margin": "equivalence margin around an accuracy of 0.5",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="make a study")
    make.add_argument("--real", type=Path, required=True, help="the dataset of patients")
    make.add_argument(
        "--synthetic",
        nargs="+",
        required=True,
        metavar="[NAME=]DATASET",
        help="synthetic datasets; those of one name count as one source",
    )
    make.add_argument("--out", type=Path, required=True, help="a new folder")
    make.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=["test"],
        help="of the real radiographs; not one that a generator was trained on (default: test)",
    )
    for field in dataclasses.fields(Design):
        default = field.default
        make.add_argument(
            f"--{field.name}",
            type=type(default),
            default=default,
            help=f"{_HELP[field.name]} (default: {default})",
        )
    show = commands.add_parser("serve", help="show a study to its readers, on this machine")
    show.add_argument("study", type=Path)
    show.add_argument("--invite", nargs="+", default=[], metavar="READER", help="codes of readers")
    show.add_argument("--port", type=int, default=8123)
    count = commands.add_parser("score", help="write what the readers found")
    count.add_argument("study", type=Path)
    count.add_argument("--readers", nargs="+", default=[], help="score these only")
    count.add_argument("--out", type=Path, help="a new folder (default: STUDY.results)")
    plan = commands.add_parser("power", help="how many radiographs a study needs")
    plan.add_argument("--margin", type=float, default=Design.margin, help=_HELP["margin"])
    args = parser.parse_args(argv)
    try:
        if args.command == "build":
            _build(args)
        elif args.command == "serve":
            _serve(args)
        elif args.command == "score":
            _score(args)
        else:
            Design(margin=args.margin)
            print(power_table(args.margin))
    except UserError as error:
        print(f"reader_study: {error}", file=sys.stderr)
        return 2
    except (OSError, sqlite3.OperationalError) as error:
        print(f"reader_study: {error}: make room, or write elsewhere.", file=sys.stderr)
        return 2
    return 0


def _build(args: argparse.Namespace) -> None:
    from femur_jax.data.shards import RadiographDataset
    from femur_jax.reader_study.build import build

    design = Design(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Design)})
    real = RadiographDataset(args.real)
    if real.provenance.get("kind") == "synthetic":
        raise UserError(f"{args.real} is synthetic; give patients' radiographs with --real.")
    lost = build(args.out, design, real, synthetic_sources(args.synthetic), splits=args.splits)
    print(f"{args.out}: {design.single} radiographs, {design.pairs} pairs; {lost:.0%} of the area")
    print("was cut off so that the two of a pair have equal size.")


def synthetic_sources(arguments: Sequence[str]) -> dict[str, list["RadiographDataset"]]:
    """Opens datasets named as NAME=DATASET, or by the model that made them.

    Raises:
        UserError: One cannot be read, is real, or two have one name that nobody gave them.
    """
    from femur_jax.data.shards import RadiographDataset

    sources: dict[str, list[RadiographDataset]] = {}
    for argument in arguments:
        given, _, folder = argument.rpartition("=")
        dataset = RadiographDataset(folder)
        if dataset.provenance.get("kind") == "real":
            raise UserError(f"{folder} is of patients; give synthetic radiographs.")
        name = given or dataset.provenance.get("model", "synthetic")
        if name == REAL_SOURCE or (name in sources and not given):
            raise UserError(f"Name the source of {folder} as NAME={folder}; {name} is taken.")
        sources.setdefault(name, []).append(dataset)
    return sources


def _serve(args: argparse.Namespace) -> None:
    from femur_jax.reader_study.server import serve

    study = open_study(args.study)
    with closing(AnswerStore(study)) as store:
        for reader in args.invite:
            store.invite(reader)
        serve(study, store, args.port)


def _score(args: argparse.Namespace) -> None:
    from femur_jax.reader_study.analysis import analyse
    from femur_jax.reader_study.page import write_results

    study = open_study(args.study)
    out = args.out or args.study.with_name(f"{args.study.resolve().name}.results")
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another folder.")
    with closing(AnswerStore(study)) as store:
        results = analyse(study, store, args.readers)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir(parents=True)
    write_results(results, study.design, partial)
    partial.replace(out)
    print(out / "results.html")


def power_table(margin: float) -> str:
    """What one reader's accuracy in telling synthetic from real can show, by number of readings."""
    from femur_jax.reader_study.statistics import (
        detectable_accuracy,
        equivalence_power,
        proportion,
    )

    lines = [
        f"One reader, exact tests. Guessing is 0.50, the equivalence margin {margin}.",
        "readings   interval at 0.50   found with 80% power   power for equivalence",
    ]
    for n in (40, 60, 80, 100, 150, 200, 300, 400):
        at_half, found = proportion(n // 2, n), detectable_accuracy(n)
        power = equivalence_power(n, margin)
        lines.append(
            f"{n:8d}   {at_half.low:.3f} to {at_half.high:.3f}     {found:20.3f}   {power:21.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
