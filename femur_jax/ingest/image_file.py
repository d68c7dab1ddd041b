"""Exported radiographs: PNG and TIFF of 8 or 16 bits, and 8-bit JPEG."""

import io
import math
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from femur_jax.data.radiograph import Source
from femur_jax.ingest.collimation import crop_box
from femur_jax.ingest.dicom import MAX_PIXELS, Picture, file_bytes
from femur_jax.ingest.rejection import RejectedFileError, require

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_TIFF_COMPRESSIONS = (
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.LZW,
    tifffile.COMPRESSION.DEFLATE,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.PACKBITS,
)
"""Compressions whose decoders survive any damaged input."""
_PLAIN_MODES = {"P": "RGB", "LA": "L"}  # without palette and transparency


def read_image_file(path: Path) -> Picture:
    """Reads one exported radiograph; bone is assumed to be bright.

    8-bit values are scaled to 0..65535, and 16-bit values are kept. Three equal colour channels
    count as grey. A TIFF whose photometric interpretation is WhiteIsZero is inverted.

    Raises:
        RejectedFileError: The file is not an intact grey-scale image of at most 40 megapixels.
    """
    data = io.BytesIO(file_bytes(path))
    try:
        pixels = _read_tiff(data) if path.suffix.lower() in (".tif", ".tiff") else _read(data)
    except (RejectedFileError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise RejectedFileError("too_large") from None
    except (UnidentifiedImageError, tifffile.TiffFileError):
        raise RejectedFileError("not_image") from None
    except Exception:  # decoders raise exceptions of many types
        raise RejectedFileError("undecodable") from None
    if pixels.ndim == 3:
        grey = pixels[..., 0]
        equal = pixels.shape[-1] in (3, 4) and bool((pixels[..., :3] == grey[..., None]).all())
        require(equal, "not_grey")
        pixels = grey
    is_image = pixels.ndim == 2 and pixels.size > 0 and pixels.dtype in (np.uint8, np.uint16)
    require(is_image, "bit_depth")
    require(int(pixels.min()) < int(pixels.max()), "constant_image")
    source = Source(syntax=path.suffix[1:].lower(), bits=8 * pixels.itemsize)
    grey = pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257
    return Picture(grey, crop_box(grey), 0.0, "unknown", source)


def _read(data: io.BytesIO) -> np.ndarray:
    # Pillow runs other programs for some of its formats.
    with Image.open(data, formats=("PNG", "JPEG")) as image:
        require(image.width * image.height <= MAX_PIXELS, "too_large")
        return np.asarray(image.convert(_PLAIN_MODES.get(image.mode, image.mode)))


def _read_tiff(data: io.BytesIO) -> np.ndarray:
    with tifffile.TiffFile(data) as file:
        page = file.pages.first
        require(page.imagewidth * page.imagelength <= MAX_PIXELS, "too_large")
        require(page.bitspersample in (8, 16) and page.samplesperpixel <= 4, "bit_depth")
        readable = page.compression in _TIFF_COMPRESSIONS
        require(readable and math.prod(page.chunks) <= 4 * MAX_PIXELS, "tiff_kind")
        require(_is_last(file), "frames")
        pixels = page.asarray()
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = np.iinfo(pixels.dtype).max - pixels
        return pixels


def _is_last(file: tifffile.TiffFile) -> bool:
    """Whether there is no second page; pages may form a loop, so they cannot be counted."""
    try:
        file.pages[1]
    except IndexError:
        return True
    return False
