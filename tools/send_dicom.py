"""Sends a folder of DICOM files to a PACS.

What the PACS has stored is noted in FOLDER.sent.csv beside the folder, so that a second run sends
only what is missing.

Example:
    python tools/send_dicom.py for_pacs --host=127.0.0.1 --port=4242 --aet=ORTHANC
"""

import argparse
import sys
from pathlib import Path

from femur_jax.errors import UserError
from femur_jax.export.pacs import send


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of DICOM files, *.dcm")
    parser.add_argument("--host", required=True, help="name or address of the PACS")
    parser.add_argument("--port", type=int, required=True, help="its DICOM port")
    parser.add_argument("--aet", required=True, help="its application entity title")
    parser.add_argument(
        "--calling", default="FEMUR_JAX", help="this side's title, which the PACS must know"
    )
    args = parser.parse_args(argv)
    try:
        sent, before = send(
            args.folder, args.host, args.port, called=args.aet, calling=args.calling
        )
    except UserError as error:
        print(f"send_dicom: {error}", file=sys.stderr)
        return 2
    print(f"{sent} files sent, {before} were there before")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
