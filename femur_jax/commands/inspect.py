"""Writes a page on what a radiograph dataset holds, for an engineer to judge and a person to sign.

OUT/fingerprint.html is one page that refers to nothing outside itself; OUT/fingerprint.json has the
same numbers. The exit code is 0, or 1 if a check fails, or 2 on bad input.

Example:
    femur inspect --dataset=data/femur --out=runs/fingerprint
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from femur_jax.commands.options import Parser
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.files import new_folder
from femur_jax.ingest.pipeline import LINES
from femur_jax.inspection.fingerprint import Fingerprint, fingerprint
from femur_jax.inspection.fingerprint_page import read_lines, write_page


def main(argv: Sequence[str]) -> int:
    """Inspects a dataset and prints the checks that did not pass, the verdict and the page."""
    parser = Parser("inspect", __doc__)
    parser.add_argument("--dataset", type=Path, required=True, help="a radiograph dataset")
    parser.add_argument(
        "--out", type=Path, help="a new folder (default: DATASET.fingerprint next to the dataset)"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--per_class", type=int, default=200, help="radiographs of each class to show at most"
    )
    shown.add_argument("--all", action="store_true", help="show every radiograph")
    parser.add_argument(
        "--lines",
        type=Path,
        help="table of the lines of the label table (default: DATASET.lines.csv, where it exists)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of radiographs")
    args = parser.parse_args(argv)
    out = args.out or args.dataset.with_name(f"{args.dataset.resolve().name}.fingerprint")
    default = args.dataset.with_name(f"{args.dataset.resolve().name}.{LINES}")
    lines_file = args.lines or (default if default.is_file() else None)
    per_class = None if args.all else args.per_class
    result = inspect(args.dataset, out, per_class, args.seed, lines_file)
    for check in result.checks:
        if check.status != "pass":
            print(f"{check.status}: {check.question} {check.finding}")
    print(result.verdict)
    print(out / "fingerprint.html")
    return 1 if result.failed else 0


def inspect(
    folder: Path, out: Path, per_class: int | None, seed: int, lines_file: Path | None
) -> Fingerprint:
    """Writes the page and the numbers into a new folder, which appears when both are complete.

    Raises:
        UserError: There is no dataset or it is damaged, `out` exists, is being written or lies in
            the dataset, `per_class` is below 1, or `lines_file` is not a table of lines.
    """
    if folder.resolve() in out.resolve().parents:
        raise UserError(f"{out} lies in the dataset; name a folder elsewhere.")
    if per_class is not None and per_class < 1:
        raise UserError(f"--per_class is {per_class}; give 1 or more.")
    with new_folder(out) as partial:
        dataset = RadiographDataset(folder)
        lines = read_lines(lines_file) if lines_file else None
        result = fingerprint(dataset)
        (partial / "fingerprint.json").write_text(json.dumps(dataclasses.asdict(result), indent=1))
        page = partial / "fingerprint.html"
        write_page(result, dataset, page, per_class=per_class, seed=seed, lines=lines)
    return result
