"""Makes a radiograph dataset of a folder of DICOM or image files and a label table.

Example:
    femur ingest --dicom=radiographs --labels=labels.csv --out=data/femur
"""

from collections.abc import Sequence
from pathlib import Path

from femur_jax.commands.options import Parser
from femur_jax.ingest.pipeline import Limits, ingest


def main(argv: Sequence[str]) -> int:
    """Ingests the files and prints how many were accepted."""
    parser = Parser("ingest", __doc__)
    parser.add_argument(
        "--dicom", type=Path, required=True, help="folder of DICOM files or PNG, TIFF, JPEG exports"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        help="CSV with path,patient_id,hospital,label and, where known, view,laterality",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the new dataset")
    parser.add_argument(
        "--key", type=Path, help="the pseudonyms' key, kept outside the dataset (default: OUT.key)"
    )
    parser.add_argument(
        "--columns",
        type=lambda text: text.split(","),
        default=(),
        metavar="NAME,NAME",
        help="further columns of the label table to keep, such as age,sex: numbers, or two words "
        "that become 0 and 1; no other column is kept",
    )
    parser.add_argument("--patch", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument(
        "--fractions",
        type=float,
        nargs=2,
        default=(0.15, 0.2),
        metavar=("VALIDATION", "TEST"),
        help="shares of the patients for validation and test",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    parser.add_argument(
        "--max_quarantined",
        type=float,
        default=0.0,
        help="largest share of unusable files",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--memory", type=float, default=1.5, help="GiB that reading one file may take"
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds that reading one file may take"
    )
    args = parser.parse_args(argv)
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
    print(
        f"{summary.inputs} files = {summary.accepted} accepted + {summary.quarantined} quarantined "
        f"+ {summary.duplicates} duplicates"
    )
    return 0
