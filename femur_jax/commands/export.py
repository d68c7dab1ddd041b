"""Writes the radiographs of datasets as DICOM files that a PACS takes, or as PNG files.

Synthetic radiographs are marked as such and name the model that generated them. With --blinded,
real and synthetic radiographs get the same neutral headers, for reading in a PACS; OUT.cases.csv,
next to the folder, says which is which. With --png, each radiograph becomes a PNG file of 16-bit
grey values, and OUT/labels.csv lists them. The same radiographs give the same files.

Examples:
    femur export runs/diffusion/synthetic --out=for_pacs
    femur export data/femur runs/diffusion/synthetic --out=reading --blinded \\
        --per_class=50 --allow_real
    femur export runs/diffusion/synthetic --out=pictures --png
"""

from collections.abc import Sequence
from pathlib import Path

from femur_jax.commands.options import Parser
from femur_jax.export.folder import BITS, export, export_png


def main(argv: Sequence[str]) -> int:
    """Exports the datasets and prints the number of files."""
    parser = Parser("export", __doc__)
    parser.add_argument("dataset", type=Path, nargs="+", help="a radiograph dataset")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--png", action="store_true", help="write PNG files with a label table, and no DICOM files"
    )
    parser.add_argument(
        "--bits",
        type=int,
        default=12,
        help=f"bits stored of a pixel, {BITS[0]} to {BITS[-1]} (default: 12; 16 rounds nothing)",
    )
    parser.add_argument(
        "--secondary_capture",
        action="store_true",
        help="write Secondary Capture images only, as radiographs of unknown spacing always are",
    )
    parser.add_argument(
        "--per_class", type=int, help="radiographs of each class and dataset (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of --per_class")
    parser.add_argument("--blinded", action="store_true", help="same headers for all radiographs")
    parser.add_argument(
        "--key",
        type=Path,
        help="secret key of the blinded numbers and UIDs (default: OUT.key)",
    )
    parser.add_argument(
        "--allow_real", action="store_true", help="also export datasets that are not synthetic"
    )
    args = parser.parse_args(argv)
    if args.key and not args.blinded:
        parser.error("--key goes with --blinded only")
    chosen = {"per_class": args.per_class, "seed": args.seed, "allow_real": args.allow_real}
    if args.png:
        for name in ("bits", "secondary_capture", "blinded"):
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} goes with DICOM files only, not with --png")
        files = export_png(args.dataset, args.out, **chosen)
    else:
        files = export(
            args.dataset,
            args.out,
            bits=args.bits,
            secondary_capture=args.secondary_capture,
            blinded=args.blinded,
            key_file=args.key,
            **chosen,
        )
    print(f"{files} files in {args.out}")
    return 0
