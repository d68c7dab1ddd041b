"""Writes a cohort of simulated femur radiographs as DICOM files with labels.csv.

The truth about each image (type and position of the fracture, outlines, faults) is written next to
the folder, as OUT.truth.jsonl. `--full` makes the cohort that stands in for the real one: 4300
radiographs of 1 to 15 megapixels of 1200 patients in 72 hospitals, 20% with an atypical fracture,
and 3% of the images with a fault of the export.

Examples:
    femur simulate --out=runs/phantoms
    femur simulate --full --only=0:20 --out=runs/phantoms
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from femur_jax.commands.options import Parser
from femur_jax.phantom.cohort import write_cohort
from femur_jax.phantom.hospital import long_sides
from femur_jax.phantom.patient import COARSEST_MM

FULL = {
    "patients": 1200,
    "images": 4300,
    "hospitals": 72,
    "aff": 0.2,
    "megapixels": (1.0, 15.0),
    "faults": 0.03,
}


def main(argv: Sequence[str]) -> int:
    """Simulates a cohort and prints the path of its label table."""
    parser = Parser("simulate", __doc__)
    parser.formatter_class = _Formatter
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--full", action="store_true", help="defaults of the full cohort, see above"
    )
    parser.add_argument("--patients", type=int, default=160, help="number of patients")
    parser.add_argument("--images", type=int, default=320, help="number of radiographs")
    parser.add_argument("--hospitals", type=int, default=8, help="number of hospitals")
    parser.add_argument("--aff", type=float, default=0.5, help="share of patients with AFF")
    parser.add_argument(
        "--long_side",
        type=int,
        nargs=2,
        default=(64, 128),
        metavar=("MIN", "MAX"),
        help="longer side of the smallest and the largest images in pixels",
    )
    parser.add_argument(
        "--megapixels",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="area of the smallest and the largest images, in place of --long_side",
    )
    parser.add_argument(
        "--coarsest_mm",
        type=float,
        default=COARSEST_MM,
        help="largest pixel at the bone, mm",
    )
    parser.add_argument(
        "--faults", type=float, default=0.0, help="share of images with a fault of the export"
    )
    parser.add_argument(
        "--only",
        type=patient_range,
        metavar="FIRST:LAST",
        help="these patients of the cohort only, counted from 0, LAST excluded",
    )
    parser.add_argument("--workers", type=int, help="number of processes (one per core)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cohort")
    if parser.parse_known_args(argv)[0].full:
        parser.set_defaults(**FULL)
    args = parser.parse_args(argv)
    sides = long_sides(tuple(args.megapixels)) if args.megapixels else tuple(args.long_side)
    labels = write_cohort(
        args.out,
        patients=args.patients,
        images=args.images,
        hospitals=args.hospitals,
        aff_fraction=args.aff,
        long_side=sides,
        coarsest_mm=args.coarsest_mm,
        faults=args.faults,
        only=args.only,
        workers=args.workers,
        seed=args.seed,
    )
    print(labels)
    return 0


def patient_range(text: str) -> tuple[int, int]:
    """FIRST:LAST as numbers."""
    first, last = text.split(":")
    return int(first), int(last)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the lines of the description."""
