"""Writes the radiographs of datasets as DICOM files that a PACS takes.

Synthetic radiographs are marked as such and say what made them. With --blinded, real and
synthetic radiographs get the same neutral headers, for reading in a PACS; OUT.cases.csv, beside
the folder, tells which is which. The same radiographs give the same files.

Examples:
    python tools/export_dicom.py runs/diffusion/synthetic --out=for_pacs
    python tools/export_dicom.py data/femur runs/diffusion/synthetic --out=reading --blinded \\
        --per-class=50 --allow-real
"""

import argparse
import sys
from pathlib import Path

from femur_jax.errors import UserError
from femur_jax.export.folder import BITS, export


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, nargs="+", help="a radiograph dataset")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--bits",
        type=int,
        default=12,
        help=f"stored of a pixel, {BITS[0]} to {BITS[-1]} (default: 12; 16 rounds nothing)",
    )
    parser.add_argument(
        "--secondary-capture",
        action="store_true",
        help="write no Digital X-Ray images (radiographs of unknown spacing never are)",
    )
    parser.add_argument(
        "--per-class", type=int, help="radiographs of each class and dataset (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of --per-class")
    parser.add_argument("--blinded", action="store_true", help="headers tell nothing apart")
    parser.add_argument(
        "--key", type=Path, help="of blinded numbers and UIDs, kept to yourself (default: OUT.key)"
    )
    parser.add_argument(
        "--allow-real", action="store_true", help="also export datasets that are not synthetic"
    )
    args = parser.parse_args(argv)
    if args.key and not args.blinded:
        parser.error("--key is of use with --blinded alone")
    try:
        files = export(
            args.dataset,
            args.out,
            bits=args.bits,
            secondary_capture=args.secondary_capture,
            per_class=args.per_class,
            seed=args.seed,
            blinded=args.blinded,
            key_file=args.key,
            allow_real=args.allow_real,
        )
    except UserError as error:
        print(f"export_dicom: {error}", file=sys.stderr)
        return 2
    print(f"{files} files in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
