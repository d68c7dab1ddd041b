"""The markers of a compressed picture, checked before any decoder reads it.

Decoders fill in missing data and believe the size in a codestream rather than in the DICOM header,
so a damaged picture can pass unnoticed, and a false size can exhaust the memory. The module reads
the markers of JPEG (ISO/IEC 10918-1 B.2), JPEG-LS (ISO/IEC 14495-1 C.2), JPEG 2000 (ISO/IEC 15444-1
A.4 and A.5) and DICOM's RLE (PS3.5 G.5).
"""

import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt16

from femur_jax.ingest.rejection import RejectedFileError, require

BASELINE, EXTENDED, LOSSLESS, JPEG_LS, JPEG_2000 = 0xC0, 0xC1, 0xC3, 0xF7, 0x51
"""Processes: JPEG's SOF markers and JPEG 2000's SIZ marker."""

_START_OF_FRAME = {*range(0xC0, 0xD0), JPEG_LS} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _START_OF_TILE = 0xDA, 0x90
_HUFFMAN_TABLES, _RESTART_INTERVAL = 0xC4, 0xDD
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MAX_SEGMENTS = 1000
"""Bound on the segments before the entropy-coded data; real codestreams have about ten."""
_MAX_TILE_PARTS = 1 << 16
_PREDICTIONS = {
    2: lambda left, above, corner: above,
    3: lambda left, above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + ((above - corner) >> 1),
    6: lambda left, above, corner: above + ((left - corner) >> 1),
    7: lambda left, above, corner: (left + above) >> 1,
}
"""Predictions of lossless JPEG, without the first, by their number (ISO/IEC 10918-1 H.1.2.1)."""
_BLOCK = 32
"""Number of rows that are predicted at a time."""
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"  # the signature of a JP2 file (ISO/IEC 15444-1 I.5.1)
_FILL = re.compile(rb"\xff+")

# Byte stuffing keeps entropy-coded data free of marker codes. These patterns find any marker
# except restarts, fill bytes and JPEG 2000's packet markers, which may occur within the data.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_LS_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_JPEG_2000_MARKER = re.compile(rb"\xff[\x90\x93-\xff]")


class Frame(NamedTuple):
    """Description of a picture in its codestream's header.

    Attributes:
        height: Number of rows.
        width: Number of columns.
        bits: Precision of a sample.
        components: Samples of a pixel.
        process: One of the processes above.
        parameter: Predictor of lossless JPEG or NEAR of JPEG-LS, otherwise 0.
        signed: Whether JPEG 2000 states signed samples; others cannot.
    """

    height: int
    width: int
    bits: int
    components: int
    process: int
    parameter: int = 0
    signed: bool = False


def read_frame(code: bytes) -> Frame:
    """Reads and checks all markers of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises:
        RejectedFileError: The codestream is of another kind, a marker is out of place, or the end
            marker is missing or followed by anything but padding: bytes of 00 or FF, and one byte
            of any value.
    """
    try:
        if code.startswith(b"\xff\x4f\xff\x51"):
            return _jpeg2000(code)
        require(not code.startswith(_JP2), "jp2")
        require(code.startswith(b"\xff\xd8"), "codestream")
        return _jpeg(code)
    except struct.error:
        raise RejectedFileError("codestream_cut") from None


def _segments(code: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields each marker with the positions of its start and of its segment's end."""
    end = 2
    for _ in range(_MAX_SEGMENTS):
        fill = _FILL.match(code, end)
        if fill is None:
            raise RejectedFileError("codestream_cut" if end >= len(code) else "codestream")
        start = fill.end() - 1
        (marker,) = struct.unpack_from("B", code, start + 1)
        length = 0
        if marker not in _STANDALONE:
            (length,) = struct.unpack_from(">H", code, start + 2)
            require(length >= 2, "codestream")
        end = start + 2 + length
        yield marker, start, end
    raise RejectedFileError("codestream")


def _jpeg(code: bytes) -> Frame:
    frame, scan = None, 0
    for marker, start, end in _segments(code):
        if marker in _START_OF_FRAME:
            require(frame is None, "codestream")
            bits, height, width, components = struct.unpack_from(">BHHB", code, start + 4)
            frame = Frame(height, width, bits, components, marker)
        elif marker == _START_OF_SCAN:
            scan = end
            break
    if frame is None:
        raise RejectedFileError("codestream")
    # The scan's header ends with Ss, Se, Ah and Al. A single full scan determines the last three;
    # Se is 63 for DCTs, but some encoders write 0.
    parameter, last, approximation = struct.unpack_from("3B", code, scan - 3)
    lasts = (0, 63) if frame.process in (BASELINE, EXTENDED) else (0,)
    require(last in lasts and approximation == 0, "codestream")
    pattern = _JPEG_LS_MARKER if frame.process == JPEG_LS else _JPEG_MARKER
    marker = pattern.search(code, scan)
    _check_end(code, marker.start() if marker else len(code))
    return frame._replace(parameter=parameter)


def _jpeg2000(code: bytes) -> Frame:
    right, bottom, left, top = struct.unpack_from(">4I", code, 8)
    components, depth = struct.unpack_from(">HB", code, 40)
    position = next(start for marker, start, _ in _segments(code) if marker == _START_OF_TILE)
    for _ in range(_MAX_TILE_PARTS):
        if code[position : position + 2] != b"\xff\x90":
            break
        (length,) = struct.unpack_from(">I", code, position + 6)
        # A length of 0 means: up to the end marker.
        end = position + length if length else code.rfind(b"\xff\xd9")
        require(0 <= end <= len(code), "codestream_cut")
        data = code.find(b"\xff\x93", position + 12, end)
        require(data >= 0, "codestream")
        require(_JPEG_2000_MARKER.search(code, data + 2, end) is None, "codestream")
        position = end
    _check_end(code, position)
    size = (bottom - top, right - left)
    return Frame(*size, (depth & 0x7F) + 1, components, JPEG_2000, signed=depth >= 0x80)


def _check_end(code: bytes, end: int) -> None:
    """Requires the end marker at a position, and nothing but padding after it."""
    require(len(code) >= end + 2, "codestream_cut")
    require(code[end : end + 2] == b"\xff\xd9", "codestream")
    # Some writers pad fragments to an even length with another byte, such as 0x20.
    require(len(code[end + 2 :].translate(None, b"\x00\xff")) <= 1, "codestream")


def lossless_bits_fit(code: bytes, pixels: Integer[np.ndarray, "height width"]) -> bool:
    """Whether lossless JPEG's entropy-coded bits are as many as those of the decoded pixels.

    A decoder leaves the rest where a part is repeated, and makes up pixels where one is missing.
    The codes are those of ISO/IEC 10918-1 H.1.2. Streams with restarts are not checked.

    Args:
        code: The codestream, as checked by `read_frame`.
        pixels: The decoded pixels, unsigned.
    """
    lengths: dict[int, bytes] = {}
    bits = scan = 0
    for marker, start, end in _segments(code):
        if marker == LOSSLESS:
            bits = code[start + 4]
        elif marker == _HUFFMAN_TABLES:
            lengths |= _code_lengths(code[start + 4 : end])
        elif marker == _RESTART_INTERVAL and any(code[start + 4 : end]):
            return True
        elif marker == _START_OF_SCAN:
            scan = end
            break
    table, predictor = code[scan - 4] >> 4, code[scan - 3]
    # Differences are modulo 2 ** 16; that of 32768 has no further bits (H.1.2.2).
    size = np.frexp(np.minimum(np.arange(1 << 16), (1 << 16) - np.arange(1 << 16)))[1]
    code_bits = np.zeros(17, np.uint8)
    code_bits[: len(lengths[table])] = list(lengths[table])
    costs = (code_bits[size] + np.where(size < 16, size, 0)).astype(np.uint8)
    used = sum(
        int(np.take(costs, differences, mode="clip").sum(dtype=np.int64))
        for differences in _differences(pixels.astype(np.uint16, copy=False), predictor, bits)
    )
    marker = _JPEG_MARKER.search(code, scan)
    coded = code[scan : marker.start() if marker else len(code)]
    left = 8 * (len(coded) - coded.count(b"\xff\x00")) - used
    return 0 <= left < 16  # filled to a byte, and by some writers to two


def _code_lengths(segment: bytes) -> dict[int, bytes]:
    """The lengths of the codes of each category, by the number of a table (B.2.4.2)."""
    tables, position = {}, 0
    while position < len(segment):
        number, counts = segment[position], segment[position + 1 : position + 17]
        position += 17
        lengths = bytearray(17)
        for length, count in enumerate(counts, start=1):
            for category in segment[position : position + count]:
                lengths[min(category, 16)] = length
            position += count
        tables[number] = bytes(lengths)
    return tables


def _differences(
    pixels: UInt16[np.ndarray, "height width"], predictor: int, bits: int
) -> Iterator[UInt16[np.ndarray, "..."]]:
    """Differences of the pixels from their predictions, modulo 2 ** 16 (H.1.2.1)."""
    yield pixels[:1, :1] - np.uint16(1 << (bits - 1))
    yield pixels[:1, 1:] - pixels[:1, :-1]
    yield pixels[1:, :1] - pixels[:-1, :1]
    for top in range(0, len(pixels) - 1, _BLOCK):  # a few rows stay in the processor's cache
        block = pixels[top : top + _BLOCK + 1]
        a, b, c = block[1:, :-1], block[:-1, 1:], block[:-1, :-1]
        if predictor == 1:
            yield block[1:, 1:] - a
        else:
            a, b, c = (part.astype(np.int32) for part in (a, b, c))
            yield block[1:, 1:] - _PREDICTIONS[predictor](a, b, c).astype(np.uint16)


def rle_segments(code: bytes, number: int) -> list[bytes]:
    """Splits an RLE frame into its segments, one for each byte of a pixel.

    Raises:
        RejectedFileError: The number of segments or their order is wrong.
    """
    require(len(code) > 64, "codestream_cut")
    stated, *offsets = struct.unpack_from("<16I", code)
    require(stated == number, "codestream_bits")
    bounds = [*offsets[:number], len(code)]
    require(bounds[0] == 64 and not any(offsets[number:]), "codestream")
    require(all(a < b for a, b in pairwise(bounds)), "codestream")
    return [code[a:b] for a, b in pairwise(bounds)]
