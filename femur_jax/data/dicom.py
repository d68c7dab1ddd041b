"""One DICOM file to grey values for presentation.

The chain is the standard's (PS3.3 C.7.6.3, C.11.1, C.11.2): stored values -> modality LUT or
rescale -> VOI LUT or window -> one inversion for MONOCHROME1 or Presentation LUT Shape INVERSE.
Each transfer syntax has one pinned decoder: pydicom would otherwise try one after another, and
a later one may return an array from a broken stream.
"""

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from jaxtyping import Float32, UInt16
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, apply_voi, pixel_array

from femur_jax.data.rejection import RejectedFileError

MAX_PIXELS = 40_000_000

_DECODERS = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.RLELossless: "pylibjpeg",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "gdcm",
    uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.JPEGBaseline8Bit: "imagecodecs",
    uid.JPEGExtended12Bit: "imagecodecs",
}
_JPEG_END = b"\xff\xd9"


def read_dicom(path: Path) -> tuple[UInt16[np.ndarray, "height width"], float, str]:
    """Reads one grey-scale radiograph.

    Returns:
        Grey values (0..65535, bone bright), the pixel spacing in mm (0.0 where unknown), and
        its provenance, one of `radiograph.SPACING_SOURCES`.

    Raises:
        RejectedFileError: The file is no intact, single-frame grey-scale radiograph.
    """
    try:
        dataset = pydicom.dcmread(path)
    except InvalidDicomError:
        raise RejectedFileError("not_dicom", "This is no DICOM file.") from None
    _check_header(dataset)
    spacing, source = _spacing(dataset)
    stored = _decode(dataset)
    if stored.min() == stored.max():
        raise RejectedFileError("constant_image", "All pixels are equal.")
    shown = _presentation(stored, dataset)
    return np.round(shown * 65535).astype(np.uint16), spacing, source


def _check_header(dataset: Dataset) -> None:
    """Refuses what decoding would choke on, before decoding."""

    def require(condition: bool, code: str, hint: str) -> None:
        if not condition:
            raise RejectedFileError(code, hint)

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    require(
        syntax in _DECODERS, "transfer_syntax", "Its transfer syntax is missing or not read here."
    )
    require("PixelData" in dataset, "no_pixels", "It holds no pixel data.")
    rows, columns = dataset.get("Rows") or 0, dataset.get("Columns") or 0
    require(rows > 0 and columns > 0, "no_size", "Rows or Columns is missing or zero.")
    require(rows * columns <= MAX_PIXELS, "too_large", "It has more than 40 megapixels.")
    require(int(dataset.get("NumberOfFrames") or 1) == 1, "frames", "It has more frames than one.")
    require(
        dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
        and dataset.get("SamplesPerPixel") == 1,
        "not_grey",
        "It is not a grey-scale image.",
    )
    allocated, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored") or 0
    require(
        allocated in (8, 16) and 0 < stored <= allocated and dataset.get("HighBit") == stored - 1,
        "bits",
        "BitsAllocated, BitsStored and HighBit contradict each other or exceed 16 bits.",
    )


def _decode(dataset: Dataset) -> np.ndarray:
    """Stored values, signed or unsigned."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != uid.RLELossless:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if not frame.rstrip(b"\x00\xff").endswith(_JPEG_END) and not frame.rstrip(b"\x00").endswith(
            _JPEG_END
        ):
            raise RejectedFileError("cut_short", "Its compressed pixels lack their end marker.")
    else:
        frame = b""
    try:
        if _DECODERS[syntax] == "imagecodecs":
            pixels = imagecodecs.jpeg8_decode(frame)
        else:
            pixels = pixel_array(dataset, decoding_plugin=_DECODERS[syntax], raw=True)
    except Exception:  # decoders raise what they like, with texts that may quote the header
        raise RejectedFileError("undecodable", "Its pixel data cannot be decoded.") from None
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise RejectedFileError("size_differs", "Header and pixel data differ in size.")
    if pixels.max() >= 1 << dataset.BitsStored:
        raise RejectedFileError("bits", "Pixel values exceed BitsStored.")
    return pixels


def _presentation(stored: np.ndarray, dataset: Dataset) -> Float32[np.ndarray, "height width"]:
    """Grey values in [0, 1], bone bright."""
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        lut = dataset.VOILUTSequence[0]
        shown = apply_voi(values, dataset).astype(np.float32) / ((1 << lut.LUTDescriptor[2]) - 1)
    elif _first(dataset.get("WindowWidth")):
        shown = window(
            values.astype(np.float32),
            float(_first(dataset.WindowCenter)),
            float(_first(dataset.WindowWidth)),
            dataset.get("VOILUTFunction") or "LINEAR",
        )
    else:
        low, high = float(values.min()), float(values.max())
        shown = (values.astype(np.float32) - low) / (high - low)
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
    if "PresentationLUTShape" in dataset:  # it takes the place of the photometric interpretation
        inverse = dataset.PresentationLUTShape == "INVERSE"
    return 1 - shown if inverse else shown


def _first(value):
    return (value[0] if len(value) else None) if isinstance(value, MultiValue) else value


def window(
    values: Float32[np.ndarray, "height width"], center: float, width: float, function: str
) -> Float32[np.ndarray, "height width"]:
    """Applies a VOI window (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: Values after the modality transformation.
        center: Window Center.
        width: Window Width, at least 1 for LINEAR, else above 0.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        Values in [0, 1].
    """
    if width <= (1 if function == "LINEAR" else 0):
        return (values > center - 0.5).astype(np.float32)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / width + 0.5, 0, 1)


def _spacing(dataset: Dataset) -> tuple[float, str]:
    """Pixel spacing in mm and what it is known from (PS3.3 10.7.1)."""
    in_patient = _square(dataset.get("PixelSpacing"))
    at_detector = _square(dataset.get("ImagerPixelSpacing"))
    if in_patient and (in_patient != at_detector or "PixelSpacingCalibrationType" in dataset):
        calibrated = at_detector or "PixelSpacingCalibrationType" in dataset
        return in_patient, "calibrated" if calibrated else "unknown"
    if at_detector:
        return at_detector, "detector"
    return 0.0, "unknown"


def _square(spacing) -> float:
    """The side of a square pixel in mm, 0.0 where it is not given."""
    if spacing is None or len(spacing) != 2 or not min(spacing) > 0:
        return 0.0
    if max(spacing) > 1.01 * min(spacing):
        raise RejectedFileError("oblong_pixels", "Its pixels are not square.")
    return float(spacing[0])
