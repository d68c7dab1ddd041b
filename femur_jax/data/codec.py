"""16-bit grey pixels to bytes and back, without loss and with a checksum.

Neighbouring pixels differ by little, so a tile is stored as horizontal differences, zigzag
coded (0, -1, 1, -2, ... become 0, 1, 2, 3, ...), split into a plane of low and a plane of high
bytes, and compressed by zstandard, whose frame checksum finds every flipped or missing byte.
"""

import struct

import numpy as np
import zstandard
from jaxtyping import UInt16

_HEADER = struct.Struct("<4sHH")
_MAGIC = b"fjx1"
_COMPRESSION_LEVEL = 3


class CorruptTileError(Exception):
    """The bytes are not an intact tile."""


def encode(pixels: UInt16[np.ndarray, "height width"]) -> bytes:
    """Codes one tile of at most 65535 x 65535 pixels."""
    delta = np.diff(pixels, axis=1, prepend=np.zeros((pixels.shape[0], 1), np.uint16))
    signed = delta.view(np.int16)
    zigzag = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
    planes = (zigzag & 0xFF).astype(np.uint8).tobytes() + (zigzag >> 8).astype(np.uint8).tobytes()
    compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_checksum=True)
    return _HEADER.pack(_MAGIC, *pixels.shape) + compressor.compress(planes)


def decode(data: bytes) -> UInt16[np.ndarray, "height width"]:
    """Inverts `encode`.

    Raises:
        CorruptTileError: The bytes were not written by `encode`, or were changed since.
    """
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise CorruptTileError("the bytes do not begin like a tile")
    _, height, width = _HEADER.unpack_from(data)
    try:
        planes = zstandard.ZstdDecompressor().decompress(data[_HEADER.size :])
    except zstandard.ZstdError as error:
        raise CorruptTileError("the compressed pixels fail their checksum") from error
    if len(planes) != 2 * height * width:
        raise CorruptTileError("the compressed pixels have another size than the header says")
    low, high = np.frombuffer(planes, np.uint8).reshape(2, height, width).astype(np.uint16)
    zigzag = low | (high << 8)
    delta = (zigzag >> 1) ^ -(zigzag & 1)
    return np.cumsum(delta, axis=1, dtype=np.uint16)
