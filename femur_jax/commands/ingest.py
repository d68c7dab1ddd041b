"""Makes a radiograph dataset of a folder of DICOM or image files and a label table.

--draft_labels writes a label table from the headers of DICOM files, in which the labels are empty.
--check tries each file of a folder and makes no dataset: it prints how many files are accepted, why
others are not, the peak memory, and how pictures compare with those of dcmtk where its programs are
installed. It names files by their number in the order of their paths, and --files gives the paths.

Examples:
    femur ingest --dicom=radiographs --labels=labels.csv --out=data/femur
    femur ingest --dicom=radiographs --draft_labels=labels.csv
    femur ingest --check=radiographs --files=check.csv
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from femur_jax.commands.options import Parser
from femur_jax.data.radiograph import LABELS
from femur_jax.ingest.check import ACCEPTED, EQUAL, Checked, check
from femur_jax.ingest.dcmtk import programs
from femur_jax.ingest.draft import draft_labels
from femur_jax.ingest.pipeline import Limits, ingest
from femur_jax.ingest.rejection import REASONS


def main(argv: Sequence[str]) -> int:
    """Ingests the files and prints how many were accepted."""
    parser = Parser("ingest", __doc__)
    parser.add_argument(
        "--dicom", type=Path, help="folder of DICOM files or PNG, TIFF, JPEG exports"
    )
    tables = parser.add_mutually_exclusive_group(required=True)
    tables.add_argument(
        "--labels",
        type=Path,
        help="CSV with path,patient_id,hospital,label and, where known, view,laterality",
    )
    tables.add_argument(
        "--draft_labels",
        type=Path,
        metavar="LABELS",
        help="write such a table from DICOM headers, with the label left empty, and do no more",
    )
    tables.add_argument(
        "--check", type=Path, metavar="DIR", help="try the files of this folder, and do no more"
    )
    parser.add_argument(
        "--files",
        type=Path,
        metavar="CSV",
        help="with --check: new table of each file's path, code, peak memory and difference to "
        "dcmtk in levels of 0..255",
    )
    parser.add_argument("--out", type=Path, help="folder of the new dataset")
    parser.add_argument(
        "--key", type=Path, help="the pseudonyms' key, kept outside the dataset (default: OUT.key)"
    )
    parser.add_argument(
        "--columns",
        type=lambda text: text.split(","),
        default=(),
        metavar="NAME,NAME",
        help="further columns of the label table to keep, such as age,sex: numbers of up to three "
        "digits, or two words that become 0 and 1; no other column is kept",
    )
    parser.add_argument(
        "--outside",
        action="store_true",
        help="accept paths in the label table that lead out of the folder: by '..', from '/', or "
        "by links",
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
    limits = Limits(memory=int(args.memory * 2**30), seconds=args.timeout)
    if args.check:
        _print_check(check(args.check, args.files, workers=args.workers, limits=limits))
        return 0
    if not args.dicom:
        parser.error("--dicom is required with --labels and --draft_labels")
    if args.draft_labels:
        _draft(args.dicom, args.draft_labels, args.workers, limits)
        return 0
    if not args.out:
        parser.error("--out is required with --labels")
    summary = ingest(
        args.dicom,
        args.labels,
        args.out,
        patch=args.patch,
        key_file=args.key or args.out.parent / f"{args.out.name}.key",
        columns=args.columns,
        outside=args.outside,
        fractions=args.fractions,
        seed=args.seed,
        max_quarantined=args.max_quarantined,
        workers=args.workers,
        limits=limits,
    )
    print(
        f"{summary.inputs} files = {summary.accepted} accepted + {summary.quarantined} quarantined "
        f"+ {summary.duplicates} duplicates"
    )
    return 0


def _draft(folder: Path, table: Path, workers: int | None, limits: Limits) -> None:
    drafted = draft_labels(
        folder, table, workers=workers, memory=limits.memory, seconds=limits.seconds
    )
    print(f"The table has {drafted.lines} lines; write {' or '.join(LABELS)} as label in each.")
    if drafted.headerless:
        print(f"Without a readable DICOM header, so with a path only: {drafted.headerless}.")
    if drafted.left_out:
        print(f"Left out as other kinds of files: {drafted.left_out}.")
    print("The table names patients: protect it like the radiographs.")


def _print_check(results: Sequence[Checked]) -> None:
    """Prints a table of the codes, and what reading cost and how it compares."""
    codes = [result.code for result in results]
    width = max(map(len, codes))
    print(f"{'code':{width}}  files  first  hint")
    for code, number in sorted(Counter(codes).items(), key=lambda item: (-item[1], item[0])):
        hint = REASONS[code].hint if code in REASONS else ""
        print(f"{code:{width}}  {number:5}  {1 + codes.index(code):5}  {hint}".rstrip())
    peaks = {n: r.peak_mib for n, r in enumerate(results, start=1) if r.peak_mib is not None}
    if peaks:
        most = max(peaks, key=peaks.__getitem__)
        print(f"Peak memory of a worker process: {peaks[most]} MiB (file {most}).")
    if not programs():
        print("No picture is compared, since dcmtk is not installed.")
        return
    levels = {
        n: r.levels_from_dcmtk
        for n, r in enumerate(results, start=1)
        if r.levels_from_dcmtk is not None
    }
    print(f"Of {codes.count(ACCEPTED)} accepted files, dcmtk shows {len(levels)}.")
    if levels:
        most = max(levels, key=levels.__getitem__)
        equal = sum(apart <= EQUAL for apart in levels.values())
        print(
            f"Equal within 1 of 255 levels: {equal / len(levels):.1%}. The greatest difference is "
            f"{levels[most]:.3g} (file {most})."
        )
