"""Tells what a radiograph dataset holds, for an engineer to judge and a person to sign.

Writes OUT/fingerprint.html, one page that refers to nothing outside itself, and
OUT/fingerprint.json with the same numbers. Ends with 0, with 1 if a check fails, with 2 on bad
input.

Example:
    python tools/inspect_dataset.py --dataset=data/femur --out=femur_fingerprint
"""

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.inspection.fingerprint import Fingerprint, fingerprint
from femur_jax.inspection.fingerprint_page import write_page


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True, help="a radiograph dataset")
    parser.add_argument(
        "--out", type=Path, help="a new folder (default: DATASET.fingerprint beside the dataset)"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--per_class", type=int, default=200, help="radiographs of each class to show at most"
    )
    shown.add_argument("--all", action="store_true", help="show every radiograph")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of what is shown")
    args = parser.parse_args(argv)
    out = args.out or args.dataset.with_name(f"{args.dataset.resolve().name}.fingerprint")
    try:
        found = inspect(args.dataset, out, None if args.all else args.per_class, args.seed)
    except UserError as error:
        print(f"inspect_dataset: {error}", file=sys.stderr)
        return 2
    for check in found.checks:
        if check.status != "pass":
            print(f"{check.status}: {check.question} {check.finding}")
    print(found.verdict)
    print(out / "fingerprint.html")
    return 1 if found.failed else 0


def inspect(folder: Path, out: Path, per_class: int | None, seed: int) -> Fingerprint:
    """Writes the page and the numbers into a new folder, which appears when both are complete.

    Raises:
        UserError: There is no dataset or it is damaged, `out` exists or lies in the dataset, or
            `per_class` is below 1.
    """
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another folder.")
    if folder.resolve() in out.resolve().parents:
        raise UserError(f"{out} lies in the dataset; name a folder elsewhere.")
    if per_class is not None and per_class < 1:
        raise UserError(f"--per_class is {per_class}; give 1 or more.")
    dataset = RadiographDataset(folder)
    found = fingerprint(dataset)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir(parents=True)
    (partial / "fingerprint.json").write_text(json.dumps(dataclasses.asdict(found), indent=1))
    write_page(found, dataset, partial / "fingerprint.html", per_class=per_class, seed=seed)
    partial.replace(out)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
