"""Writes a cohort of simulated femur radiographs as DICOM files with labels.csv."""

import argparse
import sys
from pathlib import Path

from femur_jax.errors import UserError
from femur_jax.phantom.cohort import COARSEST_MM, write_cohort


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--patients", type=int, default=160, help="number of patients")
    parser.add_argument("--hospitals", type=int, default=8, help="number of hospitals")
    parser.add_argument("--aff", type=float, default=0.5, help="share of patients with AFF")
    parser.add_argument(
        "--long-side",
        type=int,
        nargs=2,
        default=(64, 128),
        metavar=("MIN", "MAX"),
        help="longer side of the smallest and the largest images, pixels",
    )
    parser.add_argument(
        "--views",
        type=int,
        nargs=2,
        default=(1, 3),
        metavar=("MIN", "MAX"),
        help="radiographs of a patient",
    )
    parser.add_argument(
        "--coarsest-mm", type=float, default=COARSEST_MM, help="largest pixel, at the bone"
    )
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal files")
    args = parser.parse_args()
    try:
        labels = write_cohort(
            args.out,
            patients=args.patients,
            hospitals=args.hospitals,
            aff_fraction=args.aff,
            long_side=tuple(args.long_side),
            views_per_patient=tuple(args.views),
            coarsest_mm=args.coarsest_mm,
            seed=args.seed,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
