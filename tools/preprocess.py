"""Makes a radiograph dataset from a folder of DICOM or image files and a label table.

Example:
    python tools/preprocess.py --dicom=radiographs --labels=labels.csv --out=dataset
"""

import argparse
import sys
from pathlib import Path

from femur_jax.errors import UserError
from femur_jax.ingest.pipeline import Limits, ingest


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dicom", type=Path, required=True, help="folder of DICOM files or PNG, TIFF, JPEG exports"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        help="CSV with path,patient_id,hospital,label and, where known, view,laterality",
    )
    parser.add_argument("--out", type=Path, required=True, help="the new dataset")
    parser.add_argument(
        "--key", type=Path, help="the pseudonyms' key, kept outside the dataset (default: OUT.key)"
    )
    parser.add_argument(
        "--columns",
        type=lambda text: text.split(","),
        default=(),
        metavar="NAME,NAME",
        help="further columns of the label table to keep, such as age,sex: numbers, or two words "
        "that become 0 and 1; nothing else of the table is kept",
    )
    parser.add_argument("--patch", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument(
        "--fractions",
        type=float,
        nargs=2,
        default=(0.15, 0.2),
        metavar=("VALIDATION", "TEST"),
        help="shares of the patients",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument(
        "--max_quarantined", type=float, default=0.0, help="share of files that may be unusable"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--memory", type=float, default=1.5, help="GiB that reading one file may take"
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds that reading one file may take"
    )
    args = parser.parse_args()
    try:
        summary = ingest(
            args.dicom,
            args.labels,
            args.out,
            patch=args.patch,
            key_file=args.key or args.out.parent / f"{args.out.name}.key",
            columns=args.columns,
            fractions=args.fractions,
            seed=args.seed,
            max_quarantined=args.max_quarantined,
            workers=args.workers,
            limits=Limits(memory=int(args.memory * 2**30), seconds=args.timeout),
        )
    except UserError as error:
        print(f"preprocess: {error}", file=sys.stderr)
        return 2
    print(
        f"{summary.inputs} files = {summary.accepted} accepted + {summary.quarantined} quarantined "
        f"+ {summary.duplicates} duplicates"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
