"""What a compressed picture says of itself, read before any decoder is trusted with it.

Decoders fill up what is cut off and believe a codestream's size over the header's, so a damaged
picture can pass silently, and a false size can take all memory. These are the markers of JPEG
(ISO/IEC 10918-1 B.2.2, with JPEG-LS's of ISO/IEC 14495-1 C.2.2), JPEG 2000 (ISO/IEC 15444-1
A.5.1) and DICOM's RLE (PS3.5 G.5).
"""

import struct
from typing import NamedTuple

from femur_jax.data.rejection import RejectedFileError, require

_END = b"\xff\xd9"
_JPEG_START = b"\xff\xd8"
_JPEG2000_START = b"\xff\x4f\xff\x51"
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_START_OF_SCAN = 0xDA


class Frame(NamedTuple):
    """Size and precision as a codestream states them, and its process (JPEG's SOF marker)."""

    height: int
    width: int
    bits: int
    components: int
    process: int


BASELINE, EXTENDED, LOSSLESS, JPEG_LS, JPEG_2000 = 0xC0, 0xC1, 0xC3, 0xF7, 0x51


def read_frame(code: bytes) -> Frame:
    """Reads the header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises:
        RejectedFileError: It is none of these, or its end marker is missing. A codestream may be
            followed by padding of 00 or FF.
    """
    if code.startswith(_JPEG2000_START):
        frame = _jpeg2000(code)
    else:
        require(code.startswith(_JPEG_START), "codestream")
        frame = _jpeg(code)
    require(code.rstrip(b"\x00\xff").endswith(_END), "codestream_cut")
    return frame


def _jpeg(code: bytes) -> Frame:
    place = 2
    while place + 4 <= len(code):
        require(code[place] == 0xFF, "codestream")
        marker = code[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker in _STANDALONE:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", code, place + 2)
        start_of_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if start_of_frame or marker == JPEG_LS:
            require(place + 10 <= len(code), "codestream_cut")
            bits, height, width, components = struct.unpack_from(">BHHB", code, place + 4)
            return Frame(height, width, bits, components, marker)
        require(marker != _START_OF_SCAN and length >= 2, "codestream")
        place += 2 + length
    raise RejectedFileError("codestream_cut")


def _jpeg2000(code: bytes) -> Frame:
    require(len(code) >= 43, "codestream_cut")
    right, bottom, left, top = struct.unpack_from(">4I", code, 8)
    components, depth = struct.unpack_from(">HB", code, 40)
    return Frame(bottom - top, right - left, (depth & 0x7F) + 1, components, JPEG_2000)


def check_rle(code: bytes, segments: int) -> None:
    """Checks the offsets of an RLE frame: one segment for each byte of a pixel.

    Raises:
        RejectedFileError: The number of segments or their order is wrong.
    """
    require(len(code) > 64, "codestream_cut")
    number, *offsets = struct.unpack_from("<16I", code)
    require(number == segments, "codestream_bits")
    used = offsets[:number]
    rising = used[0] == 64 and all(a < b for a, b in zip(used, [*used[1:], len(code)], strict=True))
    require(rising and not any(offsets[number:]), "codestream")
