"""Selects synthetic radiographs that may be given away, and writes them to a folder to share.

Left out are radiographs that the audit flags or that resemble those, and radiographs that do not
look like real ones. What is left is audited again, and nothing is written if the audit accuses it.
OUT holds the radiographs as a dataset, as PNG files of 16 bits and as DICOM files, with labels.csv,
cards, Croissant metadata, a license and checksums. No audit proves that none shows a patient:
DATA_CARD.md states what it can see.

With --review, readers look at each radiograph before: the first call makes the page's folder, and
the same call again releases what all readers accepted.

Examples:
    femur release runs/diffusion --out=release --creator="A University" --url=https://a.example/femur
    femur release runs/diffusion --out=release --creator="A University" \\
        --url=https://a.example/femur --review=runs/review
    femur readers serve runs/review --invite surgeon
"""

from collections.abc import Sequence
from pathlib import Path

from absl import logging

from femur_jax.commands.options import Parser
from femur_jax.release.licenses import LICENSES


def main(argv: Sequence[str]) -> int:
    """Writes the release and prints how many radiographs were left out, and why."""
    logging.set_verbosity(logging.FATAL)  # Orbax and TFDS log much that helps nobody
    parser = Parser("release", __doc__)
    parser.add_argument(
        "source", type=Path, help="run directory of a generator, or a synthetic dataset in it"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--license",
        choices=tuple(LICENSES),
        default="CC-BY-4.0",
        help="license of the radiographs (default: CC-BY-4.0)",
    )
    parser.add_argument("--creator", required=True, help="organisation that gives it away")
    parser.add_argument("--url", required=True, help="address at which it will be found")
    parser.add_argument(
        "--review",
        type=Path,
        help="folder of the page on which readers accept or reject, see above",
    )
    parser.add_argument(
        "--classifier",
        type=Path,
        help="run directory of a classifier of the source, to be trained once more on what is "
        "released; its AUC on real patients before and after goes to the card",
    )
    args = parser.parse_args(argv)
    from femur_jax.stages.release import release  # imports JAX, which --help does without

    counts = release(
        args.source,
        args.out,
        license_name=args.license,
        url=args.url,
        creator=args.creator,
        review=args.review,
        classifier=args.classifier,
    )
    if counts is None:
        print(f"Nothing is released yet. femur readers serve {args.review} --invite NAME")
        return 0
    for reason, number in counts.items():
        print(f"{number:6} left out: {reason}")
    print(args.out / "DATA_CARD.md")
    return 0
