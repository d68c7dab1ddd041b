"""Runs a reader study: can doctors tell synthetic radiographs from real ones?

Example:
    femur readers power
    femur readers build --real data/femur \\
        --synthetic runs/diffusion/synthetic runs/gan/synthetic --out runs/readers
    femur readers serve runs/readers --invite reader1 reader2
    femur readers score runs/readers
"""

import argparse
import dataclasses
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from femur_jax.commands.options import Parser
from femur_jax.data.cohort import SPLITS
from femur_jax.errors import UserError
from femur_jax.files import new_folder, require_absent
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.design import REAL_SOURCE, Design
from femur_jax.reader_study.study import open_study

# Modules that only one step needs are imported there: a server restarts at once, while TFDS and
# scikit-learn take seconds to import.
if TYPE_CHECKING:
    from femur_jax.data.shards import RadiographDataset

_HELP = {
    "seed": "seed of the choice of radiographs and of their order",
    "single": "number of radiographs read one at a time, half of them real",
    "repeats": "share of these radiographs that are shown twice",
    "pairs": "number of pairs of a real and a synthetic radiograph",
    "practice": "number of radiographs to practise with",
    "margin": "equivalence margin around an AUC, or a share of correct pairs, of 0.5",
}


def main(argv: Sequence[str]) -> int:
    """Runs one of the four steps of a reader study."""
    parser = Parser("readers", __doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, parser_class=argparse.ArgumentParser
    )
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
        help="splits of the real radiographs, none that a generator was trained on (default: test)",
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
    count = commands.add_parser("score", help="write the results of the readers")
    count.add_argument("study", type=Path)
    count.add_argument("--readers", nargs="+", default=[], help="readers to score (default: all)")
    count.add_argument("--out", type=Path, help="a new folder (default: STUDY.results)")
    plan = commands.add_parser("power", help="number of radiographs that a study needs")
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
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"{error}: free some space, or write elsewhere.") from None
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
    print(power_sentence(design))


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
    require_absent(out)
    with closing(AnswerStore(study)) as store:
        results = analyse(study, store, args.readers)
    with new_folder(out) as partial:
        write_results(results, study.design, partial)
    print(out / "results.html")


def power_sentence(design: Design) -> str:
    """What a study of this design can show of one reader who guesses."""
    from femur_jax.reader_study.statistics import (
        area_equivalence_power,
        equivalence_power,
        fewest_for_equivalence,
    )

    single = area_equivalence_power(design.single, design.margin)
    pairs = equivalence_power(design.pairs, design.margin)
    text = (
        f"A reader who guesses is shown to do so, within {design.margin:g}, with a probability of "
        f"{single:.0%} by {design.single} single radiographs and {pairs:.0%} by {design.pairs} "
        "pairs."
    )
    if not pairs and design.pairs:
        text += f" Pairs cannot show it below {fewest_for_equivalence(design.margin)}."
    return text


def power_table(margin: float) -> str:
    """What one reader's answers can show of telling synthetic from real, by their number."""
    from femur_jax.reader_study.statistics import (
        area_equivalence_power,
        detectable_accuracy,
        equivalence_power,
        proportion,
    )

    lines = [
        f"One reader. Guessing is 0.50, the equivalence margin {margin}.",
        "           share correct of pairs, exact tests                  AUC of single ones",
        "answers    interval at 0.50   80% power for   equivalence   equivalence",
    ]
    for n in (40, 60, 80, 100, 150, 200, 300, 400):
        at_half, found = proportion(n // 2, n), detectable_accuracy(n)
        pairs, single = equivalence_power(n, margin), area_equivalence_power(n, margin)
        lines.append(
            f"{n:7d}    {at_half.low:.3f} to {at_half.high:.3f}     {found:13.3f}   {pairs:11.2f}"
            f"   {single:11.2f}"
        )
    return "\n".join(lines)
