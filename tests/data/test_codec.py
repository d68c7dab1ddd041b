import struct
import zlib

import numpy as np
import pytest
import zstandard

from femur_jax.data.codec import CorruptTileError, decode, encode


def _tiles():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :80]
    return {
        "random": rng.integers(0, 65536, (37, 53), np.uint16),
        "smooth": (30000 + 20000 * np.sin(y / 9) * np.cos(x / 7)).astype(np.uint16),
        "constant": np.full((16, 16), 65535, np.uint16),
        "one row": rng.integers(0, 65536, (1, 33), np.uint16),
        "one column": rng.integers(0, 65536, (33, 1), np.uint16),
        "one pixel": np.array([[40000]], np.uint16),
        "extreme steps": np.tile(np.array([0, 65535, 32768, 32767], np.uint16), (3, 5)),
        "a view": rng.integers(0, 65536, (20, 30), np.uint16)[3:17:2, ::-1],
    }


def _slow_decode(data: bytes) -> list[list[int]]:
    """Decodes the documented format pixel by pixel with Python's integers."""
    magic, height, width = struct.unpack("<4sHH", data[:8])
    assert magic == b"fjx1"
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])
    planes = zstandard.ZstdDecompressor().decompress(data[8:-4])
    rows = []
    for y in range(height):
        row, value = [], 0
        for x in range(width):
            index = y * width + x
            zigzag = planes[index] + 256 * planes[height * width + index]
            value += -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2
            row.append(value % 65536)
        rows.append(row)
    return rows


@pytest.mark.parametrize("name", _tiles())
def test_round_trip(name):
    tile = _tiles()[name]
    decoded = decode(encode(tile))
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, tile)


@pytest.mark.parametrize("name", _tiles())
def test_bytes_are_the_documented_format(name):
    tile = _tiles()[name]
    assert _slow_decode(encode(tile)) == tile.tolist()


def test_every_changed_byte_is_detected():
    data = encode(np.random.default_rng(1).integers(0, 4096, (6, 7), np.uint16))
    for position in range(len(data)):
        for change in (1, 0x10, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= change
            with pytest.raises(CorruptTileError):
                decode(bytes(damaged))


def test_every_truncation_is_detected():
    data = encode(np.random.default_rng(2).integers(0, 4096, (6, 7), np.uint16))
    for length in range(len(data)):
        with pytest.raises(CorruptTileError):
            decode(data[:length])
    with pytest.raises(CorruptTileError):
        decode(data + b"\0")


def test_smooth_tiles_become_small():
    y, x = np.mgrid[:256, :256]
    smooth = (30000 + 20000 * np.sin(y / 90) * np.cos(x / 70)).astype(np.uint16)
    assert len(encode(smooth)) < smooth.nbytes / 3
