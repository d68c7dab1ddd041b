"""Exported radiographs: PNG and TIFF of 8 or 16 bits, and 8-bit JPEG."""

from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt16
from PIL import Image, UnidentifiedImageError

from femur_jax.data.dicom import MAX_PIXELS
from femur_jax.data.rejection import RejectedFileError

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_PLAIN_MODES = {"P": "RGB", "LA": "L"}  # without palette and transparency
_BITS = ("bits", "It is no single image of 8 or 16 bits.")
_TOO_LARGE = ("too_large", "It has more than 40 megapixels.")


def read_image_file(path: Path) -> UInt16[np.ndarray, "height width"]:
    """Reads one exported radiograph, which is taken to show bone bright.

    Eight bits are spread over 0..65535; sixteen are kept. Three equal colour channels count
    as grey. A TIFF whose photometric interpretation is WhiteIsZero is inverted.

    Raises:
        RejectedFileError: The file is no intact grey-scale image of at most 40 megapixels.
    """
    try:
        pixels = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read(path)
    except RejectedFileError:
        raise
    except Image.DecompressionBombError:
        raise RejectedFileError(*_TOO_LARGE) from None
    except (UnidentifiedImageError, tifffile.TiffFileError):
        raise RejectedFileError("not_image", "It is no image file of its suffix.") from None
    except Exception:  # decoders raise what they like
        raise RejectedFileError("undecodable", "Its pixels cannot be decoded.") from None
    if pixels.ndim == 3:
        grey = pixels[..., 0]
        if pixels.shape[-1] not in (3, 4) or (pixels[..., :3] != grey[..., None]).any():
            raise RejectedFileError("not_grey", "It is not a grey-scale image.")
        pixels = grey
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise RejectedFileError(*_BITS)
    if pixels.min() == pixels.max():
        raise RejectedFileError("constant_image", "All pixels are equal.")
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        _check_size(image.width * image.height)
        return np.asarray(image.convert(_PLAIN_MODES.get(image.mode, image.mode)))


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise RejectedFileError("frames", "It has more pages than one.")
        page = file.pages.first
        _check_size(page.imagewidth * page.imagelength)
        if page.bitspersample not in (8, 16):
            raise RejectedFileError(*_BITS)
        pixels = page.asarray()
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = np.iinfo(pixels.dtype).max - pixels
        return pixels


def _check_size(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise RejectedFileError(*_TOO_LARGE)
