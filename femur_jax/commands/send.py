"""Sends a folder of DICOM files to a PACS.

FOLDER.sent.csv, next to the folder, lists what the PACS has stored, so that a second run sends only
what is missing.

Example:
    femur send for_pacs --host=127.0.0.1 --port=4242 --aet=ORTHANC
"""

from collections.abc import Sequence
from pathlib import Path

from femur_jax.commands.options import Parser
from femur_jax.export.pacs import send


def main(argv: Sequence[str]) -> int:
    """Sends the files and prints how many."""
    parser = Parser("send", __doc__)
    parser.add_argument("folder", type=Path, help="folder of DICOM files, *.dcm")
    parser.add_argument("--host", required=True, help="name or address of the PACS")
    parser.add_argument("--port", type=int, required=True, help="DICOM port of the PACS")
    parser.add_argument("--aet", required=True, help="application entity title of the PACS")
    parser.add_argument(
        "--calling",
        default="FEMUR_JAX",
        help="application entity title of this program (%(default)s)",
    )
    args = parser.parse_args(argv)
    sent, before = send(args.folder, args.host, args.port, called=args.aet, calling=args.calling)
    print(f"{sent} files sent, {before} were there before")
    return 0
