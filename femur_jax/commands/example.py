"""Generates radiographs with the denoiser that comes with the package.

It learned from simulated patients alone, so its radiographs look like those, not like real ones.
OUT holds each radiograph as a PNG file of 16 bits, and all.png with all of them side by side.

Examples:
    femur example
    femur example --out=pictures --radiographs AFF:560x240 NFF:1250x800 --seed=3
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from femur_jax.commands.options import Parser
from femur_jax.errors import UserError

_DEFAULT = ("AFF:560x240", "NFF:300x300", "AFF:1250x800", "NFF:160x100")


def main(argv: Sequence[str]) -> int:
    """Generates the radiographs, writes the pictures, and prints the path of the one of all."""
    parser = Parser("example", __doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("example"), help="a new folder (default: example)"
    )
    parser.add_argument(
        "--radiographs",
        nargs="+",
        metavar="CLASS:HEIGHTxWIDTH",
        default=_DEFAULT,
        help=f"class and size of each (default: {' '.join(_DEFAULT)})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    args = parser.parse_args(argv)
    wanted = [_parsed(text) for text in args.radiographs]
    # These import JAX, which --help does without. Without a GPU, two devices share the tiles.
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
    from femur_jax.example import pictures, shipped
    from femur_jax.files import new_folder

    requests = [shipped.request(*fields) for fields in wanted]
    with new_folder(args.out) as folder:
        radiographs = dict(shipped.generate(requests, seed=args.seed, progress=True))
        pictures.write(folder, requests, [radiographs[n] for n in range(len(requests))])
    print(args.out / pictures.SHEET)
    return 0


def _parsed(text: str) -> tuple[str, int, int]:
    """Class, height and width.

    Raises:
        UserError: The text has another form.
    """
    match = re.fullmatch(r"(\w+):(\d{1,6})x(\d{1,6})", text)
    if not match:
        raise UserError(
            f"femur example: {text!r} is not a class and a size; write CLASS:HEIGHTxWIDTH, such as "
            "AFF:560x240."
        )
    return match[1], int(match[2]), int(match[3])
