"""One DICOM file to grey values for presentation.

The chain is the standard's (PS3.3 C.7.6.3, C.11.1, C.11.2): stored values -> modality LUT or
rescale -> VOI LUT or window -> one inversion for MONOCHROME1 or Presentation LUT Shape INVERSE.
Compressed pixels have one decoder for each transfer syntax, which is given the codestream alone,
so that its size can be held against the header's.
"""

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from jaxtyping import Float32, Shaped, UInt16
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels.utils import pixel_array
from scipy.special import expit

from femur_jax.data.rejection import RejectedFileError

MAX_PIXELS = 40_000_000

_UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
_DECODERS = {
    uid.JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    uid.JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLossless: imagecodecs.jpeg8_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
    uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    uid.JPEG2000: imagecodecs.jpeg2k_decode,
}
_TRANSFER_SYNTAXES = (*_UNCOMPRESSED, uid.RLELossless, *_DECODERS)
_JPEG_END = b"\xff\xd9"
_LEAST_WIDTH = {"LINEAR": 1.0, "LINEAR_EXACT": 1e-6, "SIGMOID": 1e-6}


def read_dicom(path: Path) -> tuple[UInt16[np.ndarray, "height width"], float, str]:
    """Reads one grey-scale radiograph.

    Returns:
        Grey values (0..65535, bone bright), the pixel spacing in mm (0.0 where unknown), and
        its provenance, one of `radiograph.SPACING_SOURCES`.

    Raises:
        RejectedFileError: The file is no intact, single-frame grey-scale radiograph.
        Exception: What pydicom raises on a malformed header.
    """
    try:
        meta = read_file_meta_info(path)
    except (InvalidDicomError, EOFError):
        raise RejectedFileError("not_dicom", "This is no DICOM file.") from None
    # Before the rest is read: a deflated file may grow a thousandfold.
    _require(
        meta.get("TransferSyntaxUID") in _TRANSFER_SYNTAXES,
        "transfer_syntax",
        "Its transfer syntax is missing or not read here.",
    )
    dataset = pydicom.dcmread(path)
    _check_header(dataset)
    spacing, source = _spacing(dataset)
    grey = np.round(_presentation(_decode(dataset), dataset) * 65535).astype(np.uint16)
    _require(bool(np.ptp(grey)), "constant_image", "All pixels are equal.")
    return grey, spacing, source


def _require(condition: bool, code: str, hint: str) -> None:
    if not condition:
        raise RejectedFileError(code, hint)


def _check_header(dataset: Dataset) -> None:
    """Refuses what decoding would choke on, before decoding."""
    _require("PixelData" in dataset, "no_pixels", "It holds no pixel data.")
    rows, columns = dataset.get("Rows") or 0, dataset.get("Columns") or 0
    _require(rows > 0 and columns > 0, "no_size", "Rows or Columns is missing or zero.")
    _require(rows * columns <= MAX_PIXELS, "too_large", "It has more than 40 megapixels.")
    _require(int(dataset.get("NumberOfFrames") or 1) == 1, "frames", "It has more frames than one.")
    _require(
        dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
        and dataset.get("SamplesPerPixel") == 1,
        "not_grey",
        "It is not a grey-scale image.",
    )
    allocated, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored") or 0
    _require(
        allocated in (8, 16) and 0 < stored <= allocated and dataset.get("HighBit") == stored - 1,
        "bits",
        "BitsAllocated, BitsStored and HighBit contradict each other or exceed 16 bits.",
    )


def _decode(dataset: Dataset) -> Shaped[np.ndarray, "height width"]:
    """Stored values, signed or unsigned."""
    try:
        if dataset.file_meta.TransferSyntaxUID in _UNCOMPRESSED:
            pixels = pixel_array(dataset, raw=True)
        else:
            pixels = _decompress(dataset)
    except RejectedFileError:
        raise
    except Exception:  # decoders raise what they like, with texts that may quote the header
        raise RejectedFileError("undecodable", "Its pixel data cannot be decoded.") from None
    _require(
        pixels.shape == (dataset.Rows, dataset.Columns),
        "size_differs",
        "Header and pixel data differ in size.",
    )
    low, high = _stored_range(dataset)
    within = low <= int(pixels.min()) and int(pixels.max()) <= high
    _require(within, "bits", "Pixel values exceed BitsStored.")
    return pixels


def _decompress(dataset: Dataset) -> np.ndarray:
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    syntax, signed = dataset.file_meta.TransferSyntaxUID, dataset.PixelRepresentation == 1
    if syntax == uid.RLELossless:
        dtype = np.dtype(f"<{'i' if signed else 'u'}{dataset.BitsAllocated // 8}")
        flat = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype), dtype)
        return flat.reshape(dataset.Rows, dataset.Columns)
    # JPEG decoders fill up what is cut off, without an error.
    ended = frame.rstrip(b"\x00\xff").endswith(_JPEG_END)
    _require(ended, "cut_short", "Its compressed pixels lack their end marker.")
    pixels = _DECODERS[syntax](frame)
    if signed:  # codestreams carry the bits of signed values, mostly without a sign
        unused = 16 - dataset.BitsStored
        pixels = (pixels.astype(np.uint16) << unused).view(np.int16) >> unused
    return pixels


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    values = 1 << dataset.BitsStored
    return (-values // 2, values // 2 - 1) if dataset.PixelRepresentation else (0, values - 1)


def _presentation(
    stored: Shaped[np.ndarray, "height width"], dataset: Dataset
) -> Float32[np.ndarray, "height width"]:
    """Grey values in [0, 1], bone bright."""
    values = stored.astype(np.float32)
    if sequence := dataset.get("ModalityLUTSequence"):
        values = _look_up(values, sequence[0], dataset)
    else:
        slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        values = values * np.float32(slope or 1) + np.float32(intercept or 0)
    if sequence := dataset.get("VOILUTSequence"):
        bits = sequence[0].LUTDescriptor[2]
        shown = np.clip(_look_up(values, sequence[0], dataset) / ((1 << bits) - 1), 0, 1)
    elif _first(dataset.get("WindowWidth")) is not None:
        shown = _apply_window(values, dataset)
    else:
        low, high = values.min(), values.max()
        shown = (values - low) / ((high - low) or 1)
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
    if "PresentationLUTShape" in dataset:  # it takes the place of the photometric interpretation
        inverse = dataset.PresentationLUTShape == "INVERSE"
    return 1 - shown if inverse else shown


def _first(value):
    return (value[0] if len(value) else None) if isinstance(value, MultiValue) else value


def _look_up(
    values: Float32[np.ndarray, "height width"], item: Dataset, dataset: Dataset
) -> Float32[np.ndarray, "height width"]:
    """Applies a modality or VOI LUT (PS3.3 C.11.1.1 and C.11.2.1.1)."""
    entries, first, _ = item.LUTDescriptor
    entries = entries or 65536
    table = item.LUTData
    if isinstance(table, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        table = np.frombuffer(table, f"{order}u{2 if len(table) >= 2 * entries else 1}")
    table = np.asarray(table, np.float32)[:entries]
    index = np.clip(np.round(values) - first, 0, len(table) - 1)
    return table[index.astype(np.int32)]


def _apply_window(
    values: Float32[np.ndarray, "height width"], dataset: Dataset
) -> Float32[np.ndarray, "height width"]:
    """Applies the first window of a header."""
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if center is None or width is None or not width >= _LEAST_WIDTH.get(function, np.inf):
        raise RejectedFileError("window", "Its window is incomplete or of no known kind.")
    return window(values, float(center), float(width), function)


def window(
    values: Float32[np.ndarray, "height width"], center: float, width: float, function: str
) -> Float32[np.ndarray, "height width"]:
    """Applies a VOI window (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: Values after the modality transformation.
        center: Window Center.
        width: Window Width, at least 1 for LINEAR, above 0 for the others.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        Values in [0, 1].
    """
    if function == "SIGMOID":
        return expit(4 * (values - center) / width)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float32)
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
    if not isinstance(spacing, MultiValue) or len(spacing) != 2 or not min(spacing) > 0:
        return 0.0
    if max(spacing) > 1.01 * min(spacing):
        raise RejectedFileError("oblong_pixels", "Its pixels are not square.")
    return float(spacing[0])
