"""DICOM files for tests."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import scipy.ndimage
from pydicom import dcmwrite, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

LOSSLESS = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big-endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG lossless": uid.JPEGLossless,
    "JPEG lossless SV1": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000 lossless": uid.JPEG2000Lossless,
}
"""Transfer syntaxes by their name in `Source.syntax`."""

LOSSY = {
    "JPEG-LS near-lossless": uid.JPEGLSNearLossless,
    "JPEG 2000": uid.JPEG2000,
    "JPEG baseline": uid.JPEGBaseline8Bit,
    "JPEG extended": uid.JPEGExtended12Bit,
}


def smooth_values(
    bits: int = 12, signed: bool = False, shape: tuple[int, int] = (33, 47), seed: int = 0
) -> np.ndarray:
    """A smooth noisy picture that uses the whole range of stored values."""
    rng = np.random.default_rng(seed)
    picture = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 3)
    picture += 0.02 * picture.std() * rng.normal(size=shape)
    top = (1 << bits) - 1
    values = np.round((picture - picture.min()) / np.ptp(picture) * top).astype(np.int64)
    if signed:
        values -= 1 << (bits - 1)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def same(kind: str, name: str) -> str:
    """A pseudonym that still shows the identifier."""
    return f"{kind}:{name}"


def encode_frame(pixels: np.ndarray, syntax: uid.UID, bits: int = 12) -> bytes:
    """Encodes stored values of 8 or 16 bits as a codestream."""
    if syntax == uid.RLELossless:
        return RLELosslessEncoder.encode(
            pixels.tobytes(),
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=1,
            bits_allocated=8 * pixels.itemsize,
            bits_stored=bits,
            pixel_representation=int(pixels.dtype.kind == "i"),
            number_of_frames=1,
            photometric_interpretation="MONOCHROME2",
            encoding_plugin="pydicom",
        )
    # Codestreams hold the bits of signed values as unsigned ones.
    raw = pixels.view(f"u{pixels.itemsize}") & np.array((1 << bits) - 1, f"u{pixels.itemsize}")
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        predictor = 1 if syntax == uid.JPEGLosslessSV1 else 6
        code = imagecodecs.jpeg8_encode(raw, lossless=True, predictor=predictor, bitspersample=bits)
    elif syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        code = imagecodecs.jpeg8_encode(raw, level=98, bitspersample=bits)
    elif syntax == uid.JPEGLSLossless:
        code = imagecodecs.jpegls_encode(raw)
    elif syntax == uid.JPEGLSNearLossless:
        code = imagecodecs.jpegls_encode(raw, level=2)
    else:
        lossless = syntax == uid.JPEG2000Lossless
        code = imagecodecs.jpeg2k_encode(
            raw,
            codecformat="j2k",
            reversible=lossless,
            level=0 if lossless else 60,
            bitspersample=bits,
            resolutions=3,
        )
    return bytes(code)


def write_dicom(
    path: Path,
    stored: np.ndarray,
    *,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    bits: int = 12,
    frame: bytes | None = None,
    change: Callable[[Dataset], None] = lambda dataset: None,
    **elements,
) -> Path:
    """Writes stored values of 8 or 16 bits, signed or not.

    Args:
        path: Path of the new file.
        stored: Array of stored values.
        syntax: Transfer syntax of the file.
        bits: Value of BitsStored.
        frame: The codestream, where it is not that of `stored`.
        change: Function that changes the dataset before it is written.
        elements: Further elements, where None removes an element.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * stored.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    if syntax.is_encapsulated:
        frame = encode_frame(stored, syntax, bits) if frame is None else frame
        dataset.add_new("PixelData", "OB", encapsulate([frame]))
        dataset["PixelData"].is_undefined_length = True
    else:
        order = "<" if syntax.is_little_endian else ">"
        raw = stored.astype(stored.dtype.newbyteorder(order)).tobytes() if frame is None else frame
        raw += b"\0" * (len(raw) % 2)
        dataset.add_new("PixelData", "OW" if stored.itemsize == 2 else "OB", raw)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    change(dataset)
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


@pytest.fixture(scope="session")
def dicom_file():
    """The function `write_dicom`."""
    return write_dicom
