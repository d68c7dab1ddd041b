"""Exported radiographs: PNG and TIFF of 8 or 16 bits, and 8-bit JPEG."""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import Shaped, UInt16
from PIL import ExifTags, Image

from femur_jax.data.radiograph import Source
from femur_jax.ingest.collimation import crop_box
from femur_jax.ingest.dicom import MAX_PIXELS, Picture, file_bytes
from femur_jax.ingest.grey import counted, robust_range, stretch
from femur_jax.ingest.rejection import RejectedFileError, require

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_COMPRESSIONS = (
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.LZW,
    tifffile.COMPRESSION.DEFLATE,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.PACKBITS,
)
"""Compressions whose decoders survive any damaged input."""
_TIFF_SAMPLES: dict[int, int] = {
    tifffile.PHOTOMETRIC.MINISBLACK: 1,
    tifffile.PHOTOMETRIC.MINISWHITE: 1,
    tifffile.PHOTOMETRIC.RGB: 3,
    tifffile.PHOTOMETRIC.PALETTE: 1,
}
"""Samples of a pixel, without transparency, by photometric interpretation."""
_MOST_COLOUR = 8 / 255
"""Greatest difference between the channels of a pixel that counts as grey, of the full range."""


class _Decoded(NamedTuple):
    """A decoded picture, before its channels are joined.

    Attributes:
        format: One of png, tiff and jpeg.
        pixels: Samples of 8 or 16 bits: grey, grey and alpha, RGB, or RGB and alpha.
        orientation: The number of EXIF and TIFF, 1 to 8, which states how the picture is turned.
        bits: Significant bits that the file states, None where it states none.
    """

    format: str
    pixels: Shaped[np.ndarray, "height width *samples"]
    orientation: int
    bits: int | None = None


def read_image_file(path: Path) -> Picture:
    """Reads one exported radiograph; bone is assumed to be bright.

    The content decides on the format, not the suffix. The picture is turned and mirrored as its
    EXIF data or its TIFF header state. Three colour channels count as grey where they differ by at
    most 8 of 255 levels. A TIFF whose photometric interpretation is WhiteIsZero is inverted.

    8-bit values are scaled to 0..65535, and 16-bit values by the bits that a PNG's sBIT chunk
    states. Where none are stated, 16-bit values are kept if they use the upper half of the range;
    otherwise the picture's own range is shown as it is for DICOM; see `grey.robust_range`.

    Raises:
        RejectedFileError: The file is not an intact grey-scale image of at most 40 megapixels.
    """
    data = file_bytes(path)
    try:
        decoded = _decode(data)
    except (RejectedFileError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise RejectedFileError("too_large") from None
    except Exception:  # decoders raise exceptions of many types
        raise RejectedFileError("undecodable") from None
    pixels = _turned(_joined(decoded.pixels), decoded.orientation)
    require(int(pixels.min()) < int(pixels.max()), "constant_image")
    grey, limits = _over_full_range(pixels, decoded.bits)
    voi = "range" if limits else "stored"
    source = Source(
        syntax=decoded.format, bits=decoded.bits or 8 * pixels.itemsize, voi=voi, limits=limits
    )
    return Picture(grey, crop_box(grey), 0.0, "unknown", source)


def _decode(data: bytes) -> _Decoded:
    if data.startswith(_PNG):
        return _decode_png(data)
    if data.startswith(_JPEG):
        return _decode_jpeg(data)
    require(data.startswith(_TIFF), "not_image")
    return _decode_tiff(data)


def _decode_png(data: bytes) -> _Decoded:
    kind, width, height, depth = struct.unpack_from(">4sIIB", data, len(_PNG) + 4)
    require(kind == b"IHDR", "undecodable")
    require(width * height <= MAX_PIXELS, "too_large")
    require(depth in (8, 16), "bit_depth")
    chunks = dict(_png_chunks(data))
    require(b"acTL" not in chunks, "frames")
    # Pillow cuts colours and transparency of 16 bits to 8.
    pixels = imagecodecs.png_decode(data)
    # The largest number of a colour picture; those of grey ones and of alpha follow.
    bits = max(chunks.get(b"sBIT", b"")[: 3 if pixels.ndim == 3 else 1], default=None)
    return _Decoded("png", pixels, _orientation(chunks.get(b"eXIf", b"")), bits)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and contents of a PNG's chunks, without those of its pixels."""
    position, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        require(zlib.crc32(content, zlib.crc32(kind)) == checksum, "undecodable")
        position += length + 12
        if kind != b"IDAT":
            yield kind, content


def _decode_jpeg(data: bytes) -> _Decoded:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        require(image.width * image.height <= MAX_PIXELS, "too_large")
        require(image.mode in ("L", "RGB"), "colour_space")
        exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        return _Decoded("jpeg", np.asarray(image), _orientation(exif))


def _decode_tiff(data: bytes) -> _Decoded:
    try:
        file = tifffile.TiffFile(io.BytesIO(data))
    except tifffile.TiffFileError:
        raise RejectedFileError("not_image") from None
    with file:
        page = file.pages.first
        require(page.imagewidth * page.imagelength <= MAX_PIXELS, "too_large")
        require(page.bitspersample in (8, 16) and page.samplesperpixel <= 4, "bit_depth")
        known = "PhotometricInterpretation" in page.tags and page.photometric in _TIFF_SAMPLES
        require(known, "colour_space")
        readable = page.compression in _TIFF_COMPRESSIONS
        require(readable and math.prod(page.chunks) <= 4 * MAX_PIXELS, "tiff_kind")
        require(_is_last(file), "frames")
        samples = _TIFF_SAMPLES[page.photometric]
        require(page.samplesperpixel in (samples, samples + 1), "colour_space")
        pixels = page.asarray()
        require(pixels.dtype in (np.uint8, np.uint16), "bit_depth")
        if page.samplesperpixel > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            pixels = np.moveaxis(pixels, 0, -1)
        channels = (page.samplesperpixel,) if page.samplesperpixel > 1 else ()
        require(pixels.shape == (page.imagelength, page.imagewidth, *channels), "tiff_kind")
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            if pixels.ndim > 2 or page.colormap is None:
                raise RejectedFileError("colour_space")
            colours = page.colormap.T
            # Old writers filled the lower 8 of the 16 bits.
            scale = 257 if colours.max() < 256 else 1
            pixels = (colours * np.uint16(scale))[pixels]
        elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            first = pixels[..., 0] if pixels.ndim == 3 else pixels  # and no transparency
            np.subtract(np.iinfo(first.dtype).max, first, out=first)
        tag = page.tags.get("Orientation")
        return _Decoded("tiff", pixels, _checked(1 if tag is None else tag.value))


def _is_last(file: tifffile.TiffFile) -> bool:
    """Whether there is no second page; pages may form a loop, so they cannot be counted."""
    try:
        file.pages[1]
    except IndexError:
        return True
    return False


def _orientation(exif: bytes) -> int:
    """The orientation that EXIF data state, 1 where there are none."""
    if not exif:
        return 1
    try:
        parsed = Image.Exif()
        parsed.load(exif)
        return _checked(parsed.get(ExifTags.Base.Orientation, 1))
    except RejectedFileError:
        raise
    except Exception:
        raise RejectedFileError("orientation") from None


def _checked(orientation: int) -> int:
    require(orientation in range(9), "orientation")
    return orientation or 1  # some writers state 0 where they know none


def _joined(
    pixels: Shaped[np.ndarray, "height width *samples"],
) -> Shaped[np.ndarray, "height width"]:
    """Joins nearly equal channels to grey values, their mean, and removes transparency."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[-1] in (2, 4):
        *_, alpha = np.moveaxis(pixels, -1, 0)
        require(bool((alpha == np.iinfo(pixels.dtype).max).all()), "transparent")
        pixels = pixels[..., :-1]
    first, *others = np.moveaxis(pixels, -1, 0)
    if all(np.array_equal(first, other) for other in others):
        return first
    darkest, brightest = pixels.min(-1), pixels.max(-1)
    most = round(_MOST_COLOUR * np.iinfo(pixels.dtype).max)
    require(int((brightest - darkest).max()) <= most, "not_grey")
    return (pixels.mean(-1, dtype=np.float32) + 0.5).astype(pixels.dtype)


def _over_full_range(
    pixels: Shaped[np.ndarray, "height width"], stated_bits: int | None
) -> tuple[UInt16[np.ndarray, "height width"], tuple[float, ...]]:
    """Scales values to 0..65535; also returns the limits where the picture's own range is shown."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * 257, ()
    values = np.arange(1 << 16, dtype=np.float64)
    if stated_bits and pixels.max() < 1 << stated_bits:  # otherwise the writer has scaled them
        table, limits = values / ((1 << stated_bits) - 1), ()
    else:
        own = robust_range(values, counted(pixels, 0, 0xFFFF))
        if own.high >= 1 << 15:
            return pixels, ()
        table, limits = stretch(values, own), tuple(own)
    return np.round(65535 * table.clip(0, 1)).astype(np.uint16)[pixels], limits


def _turned(
    pixels: Shaped[np.ndarray, "_ _"], orientation: int
) -> Shaped[np.ndarray, "height width"]:
    """Turns and mirrors a picture (EXIF 3.0 and TIFF 6.0, tag 274).

    The numbers 5 to 8 are those of 1 to 4 with rows and columns exchanged first.
    """
    if orientation > 4:
        pixels = pixels.T
    rows, columns = (
        slice(None, None, -1 if (orientation - 1) % 4 in mirrored else None)
        for mirrored in ((2, 3), (1, 2))
    )
    return np.ascontiguousarray(pixels[rows, columns])
