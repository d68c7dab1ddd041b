"""Asks a trained classifier about new films, DICOM or pictures; it is not a medical device.

OUT/predictions.csv has the probability of an atypical fracture for each file, calibrated on the
classifier's validation patients, or the code of why a file is not read (docs/quarantine.md).
OUT/predictions.html shows each film with heat maps, and warns of films unlike the training
radiographs. Both show or name patients: protect them like the films.

Examples:
    femur predict runs/trtr films --out=runs/answers
    femur predict runs/trtr films/a.dcm films/b.png --out=runs/answers
    femur predict runs/trtr films --out=runs/answers --patients=films.csv --key=data/femur.key
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from femur_jax.commands.options import Parser


def main(argv: Sequence[str]) -> int:
    """Writes the answers and prints how many films were read, and the page."""
    parser = Parser("predict", __doc__)
    parser.add_argument("classifier", type=Path, help="run directory of a trained classifier")
    parser.add_argument("films", type=Path, nargs="+", help="files, or folders of films")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="table with path,patient_id and, where known, hospital; paths as in the folder of "
        "films (default: no film's patient is known)",
    )
    parser.add_argument(
        "--key",
        type=Path,
        help="pseudonyms' key of the classifier's dataset, to recognise the table's hospitals",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    args = parser.parse_args(argv)
    if args.key and not args.patients:
        parser.error("--key goes with --patients only")
    # Orbax logs much that helps nobody; and these import JAX, which --help does without.
    logging.set_verbosity(logging.FATAL)
    from femur_jax.prediction.films import ACCEPTED
    from femur_jax.prediction.page import page_name
    from femur_jax.stages.predict import predict

    codes = predict(
        args.classifier,
        args.films,
        args.out,
        patients=args.patients,
        key=args.key,
        workers=args.workers,
    )
    counts = Counter(codes)
    refused = ", ".join(f"{code}: {n}" for code, n in counts.most_common() if code != ACCEPTED)
    print(f"{counts[ACCEPTED]} of {len(codes)} files are read{f' ({refused})' * bool(refused)}.")
    print("This is not a medical device: no diagnosis and no treatment may rest on the answers.")
    print(args.out / page_name(1))
    return 0
