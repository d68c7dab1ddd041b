"""Encodes stored values in a transfer syntax."""

import imagecodecs
import numpy as np
from jaxtyping import Integer
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from femur_jax.phantom.hospital import LOSSY_SYNTAXES

METHODS = {
    uid.JPEGBaseline8Bit: "ISO_10918_1",
    uid.JPEGExtended12Bit: "ISO_10918_1",
    uid.JPEGLSNearLossless: "ISO_14495_1",
    uid.JPEG2000: "ISO_15444_1",
}
"""Lossy Image Compression Method of each lossy syntax (PS3.3 C.7.6.1.1.5.1)."""

NEAR = 2
"""Largest error of near-lossless JPEG-LS, in stored values."""


def set_pixels(ds: Dataset, stored: Integer[np.ndarray, "height width"], bits: int) -> None:
    """Adds pixels to a dataset, encoded in the transfer syntax of its file meta information.

    Args:
        ds: A dataset with a Transfer Syntax UID.
        stored: Pixels of one or two bytes. Only uncompressed and RLE pixels may be signed.
        bits: Number of bits stored.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    ds.SamplesPerPixel = 1
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.itemsize, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.LossyImageCompression = "01" if syntax in LOSSY_SYNTAXES else "00"
    if not syntax.is_encapsulated:
        order = "<" if syntax.is_little_endian else ">"
        native = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
        one_byte = stored.itemsize == 1 and not syntax.is_implicit_VR
        ds.add_new("PixelData", "OB" if one_byte else "OW", native + bytes(len(native) % 2))
        return
    options = {
        uid.RLELossless: {"encoding_plugin": "pylibjpeg"},  # twenty times faster than pydicom's
        uid.JPEGLSLossless: {},
        uid.JPEGLSNearLossless: {"jls_error": NEAR},
    }
    if syntax in options:
        ds.compress(syntax, stored, generate_instance_uid=False, **options[syntax])
    else:
        frame = _encode(stored, syntax, bits)
        ds.add_new("PixelData", "OB", encapsulate([frame]))
        ds["PixelData"].is_undefined_length = True
    if syntax in LOSSY_SYNTAXES:
        ds.LossyImageCompressionRatio = f"{stored.nbytes / len(ds.PixelData):.4g}"
        ds.LossyImageCompressionMethod = METHODS[syntax]


def _encode(stored: Integer[np.ndarray, "height width"], syntax: uid.UID, bits: int) -> bytes:
    """Codestream of one frame."""
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        # SV1 predicts from the left neighbour; predictor 6 also uses the pixel above.
        predictor = 1 if syntax == uid.JPEGLosslessSV1 else 6
        frame = imagecodecs.jpeg8_encode(
            stored, lossless=True, predictor=predictor, bitspersample=bits
        )
    elif syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
        # pydicom's encoder uses six wavelet levels, too many for sides under 32 pixels.
        lossless = syntax == uid.JPEG2000Lossless
        frame = imagecodecs.jpeg2k_encode(
            stored,
            codecformat="j2k",
            level=0 if lossless else 70,  # signal-to-noise ratio in dB
            reversible=lossless,
            resolutions=4,
            bitspersample=bits,
        )
    else:
        frame = imagecodecs.jpeg8_encode(stored, level=97, bitspersample=bits)
    return bytes(frame)
