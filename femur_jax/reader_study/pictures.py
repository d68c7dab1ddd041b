"""The same treatment of real and synthetic radiographs, and the bytes that the page reads."""

import struct
import zlib

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from femur_jax.data import codec

_HEADER = struct.Struct("<4sIII")
_MAGIC = b"fjr1"
_SHRINK = 0.9
_COMPRESSION_LEVEL = 1  # 3% larger than level 6, and written in a quarter of the time
_TAILS = (0.1, 99.9)  # percentiles of the grey values that become black and white


def common_size(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """Height and width to which both radiographs of a pair are brought.

    Its aspect ratio is the geometric mean of theirs, so both lose an equal share to the crop. It
    is smaller than either by a tenth at least, so both are resampled and neither keeps its own
    pixel grid, with the traces of a detector or of a network in it.
    """
    aspect = np.sqrt(first[0] / first[1] * second[0] / second[1])
    heights = [min(height, width * aspect) for height, width in (first, second)]
    height = _SHRINK * min(heights)
    return max(1, int(height)), max(1, int(height / aspect))


def lost_share(size: tuple[int, int], target: tuple[int, int]) -> float:
    """Share of a radiograph's area that `bring_to` cuts off."""
    _, _, width, height = _centre(size, target)
    return 1 - height * width / (size[0] * size[1])


def _centre(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height of the central part with the target's aspect ratio."""
    height = min(float(size[0]), size[1] * target[0] / target[1])
    width = min(float(size[1]), size[0] * target[1] / target[0])
    return (size[1] - width) / 2, (size[0] - height) / 2, width, height


def bring_to(
    pixels: UInt16[np.ndarray, "_ _"], target: tuple[int, int]
) -> UInt16[np.ndarray, "height width"]:
    """Cuts out the centre, shrinks it with antialiasing and stretches its grey values.

    The grey values' 0.1st percentile becomes 0 and their 99.9th 65535, so neither range nor
    window tells where a radiograph comes from.
    """
    left, top, width, height = _centre(pixels.shape, target)
    image = Image.fromarray(pixels.astype(np.float32))
    box = (left, top, left + width, top + height)
    small = np.asarray(image.resize((target[1], target[0]), Image.Resampling.BILINEAR, box=box))
    low, high = np.percentile(small, _TAILS)
    share = (small - low) / max(high - low, 1.0)
    return np.rint(65535 * np.clip(share, 0, 1)).astype(np.uint16)


def encode(pixels: UInt16[np.ndarray, "height width"]) -> bytes:
    """The file that the page decodes: 16-bit values without loss, which a PNG would not show.

    Little-endian "fjr1", height, width and length of the rest (32 bits each), then zlib of
    `codec.difference_planes`; a browser has DecompressionStream for that.
    """
    body = zlib.compress(codec.difference_planes(pixels), _COMPRESSION_LEVEL)
    return _HEADER.pack(_MAGIC, *pixels.shape, len(body)) + body
