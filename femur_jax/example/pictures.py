"""Radiographs as PNG files, and one picture of all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from PIL import Image, ImageDraw

from femur_jax.data.synthetic import Request
from femur_jax.export.png import encode_png

SHEET = "all.png"
_HEIGHT, _GAP = 640, 12  # pixels


def write(
    folder: Path, requests: Sequence[Request], radiographs: Sequence[UInt16[np.ndarray, "_ _"]]
) -> None:
    """Writes a PNG file of 16 bits for each radiograph, and all of them side by side in 8 bits.

    Args:
        folder: An existing folder.
        requests: Request of each radiograph.
        radiographs: Grey values of each.
    """
    for number, (request, pixels) in enumerate(zip(requests, radiographs, strict=True), 1):
        (folder / f"{number}-{request.label}.png").write_bytes(encode_png(pixels))
    sheet(requests, radiographs).save(folder / SHEET)


def sheet(
    requests: Sequence[Request], radiographs: Sequence[UInt16[np.ndarray, "_ _"]]
) -> Image.Image:
    """All radiographs at one height, with class and size below each."""
    shown = []
    for pixels in radiographs:
        height, width = pixels.shape
        picture = Image.fromarray((pixels >> 8).astype(np.uint8))
        shown.append(picture.resize((max(1, round(width * _HEIGHT / height)), _HEIGHT)))
    width = sum(picture.width + _GAP for picture in shown) + _GAP
    page = Image.new("L", (width, _HEIGHT + 5 * _GAP), color=255)
    draw, left = ImageDraw.Draw(page), _GAP
    for request, picture, pixels in zip(requests, shown, radiographs, strict=True):
        page.paste(picture, (left, _GAP))
        caption = f"{request.label}\n{pixels.shape[0]} x {pixels.shape[1]} pixels"
        draw.text((left, _HEIGHT + 1.5 * _GAP), caption, fill=0, font_size=_GAP + 2)
        left += picture.width + _GAP
    return page
