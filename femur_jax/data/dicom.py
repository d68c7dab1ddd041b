"""One DICOM file to grey values and the few facts of its header that are kept.

Everything that can be checked is checked before pixels are decoded: sizes first, since a header
of a few bytes can ask for all memory. Compressed pixels have one decoder for each transfer
syntax, which is given the codestream alone.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import Shaped, UInt16
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue

from femur_jax.data import codestream
from femur_jax.data.collimation import crop_box
from femur_jax.data.grey import presentation, stored_range
from femur_jax.data.radiograph import GREATEST_AGE, INTENTS, SEXES, Box, Source
from femur_jax.data.rejection import RejectedFileError, require

MAX_PIXELS = 40_000_000
_MAX_HEADER = 16 << 20
_MAX_BYTES = 2 * MAX_PIXELS + _MAX_HEADER
"""Of a whole file, also once it is inflated."""

_RAW = {
    uid.ImplicitVRLittleEndian: "implicit",
    uid.ExplicitVRLittleEndian: "explicit",
    uid.ExplicitVRBigEndian: "big-endian",
    uid.DeflatedExplicitVRLittleEndian: "deflated",
}


@dataclass(frozen=True)
class _Compression:
    """How one transfer syntax is read."""

    name: str
    decode: Callable[[bytes], np.ndarray]
    processes: tuple[int, ...]  # that its codestreams may have


_COMPRESSED = {
    uid.JPEGBaseline8Bit: _Compression(
        "JPEG baseline", imagecodecs.jpeg8_decode, (codestream.BASELINE,)
    ),
    uid.JPEGExtended12Bit: _Compression(
        "JPEG extended", imagecodecs.jpeg8_decode, (codestream.BASELINE, codestream.EXTENDED)
    ),
    uid.JPEGLossless: _Compression(
        "JPEG lossless", imagecodecs.jpeg8_decode, (codestream.LOSSLESS,)
    ),
    uid.JPEGLosslessSV1: _Compression(
        "JPEG lossless SV1", imagecodecs.jpeg8_decode, (codestream.LOSSLESS,)
    ),
    uid.JPEGLSLossless: _Compression("JPEG-LS", imagecodecs.jpegls_decode, (codestream.JPEG_LS,)),
    uid.JPEGLSNearLossless: _Compression(
        "JPEG-LS near-lossless", imagecodecs.jpegls_decode, (codestream.JPEG_LS,)
    ),
    uid.JPEG2000Lossless: _Compression(
        "JPEG 2000 lossless", imagecodecs.jpeg2k_decode, (codestream.JPEG_2000,)
    ),
    uid.JPEG2000: _Compression("JPEG 2000", imagecodecs.jpeg2k_decode, (codestream.JPEG_2000,)),
}
_NAMES = {
    **_RAW,
    uid.RLELossless: "RLE",
    **{syntax: compression.name for syntax, compression in _COMPRESSED.items()},
}

VENDORS = (
    "Agfa",
    "Canon",
    "Carestream",
    "DRGEM",
    "Fuji",
    "GE",
    "Hologic",
    "Kodak",
    "Konica",
    "Philips",
    "Samsung",
    "Shimadzu",
    "Siemens",
    "Swissray",
    "Toshiba",
)
"""Makers whose name is kept, which tells nothing of a patient; any other becomes a pseudonym."""

_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF8", b"BM", b"%PDF")


@dataclass(frozen=True)
class Picture:
    """What reading a file gives.

    Attributes:
        pixels: Grey values (0..65535, bone bright), all that were recorded.
        crop: The part that shows the patient.
        spacing_mm: Side of a pixel in mm, 0.0 where unknown.
        spacing_source: One of `radiograph.SPACING_SOURCES`.
        source: How the file was made.
        instance: Pseudonym of the SOP Instance UID, "" where there is none.
        made_from: Pseudonyms of the instances that this one was processed from.
    """

    pixels: UInt16[np.ndarray, "height width"]
    crop: Box
    spacing_mm: float
    spacing_source: str
    source: Source
    instance: str = ""
    made_from: tuple[str, ...] = ()


def read_dicom(path: Path, pseudonym: Callable[[str, str], str]) -> Picture:
    """Reads one grey-scale radiograph.

    Args:
        path: The file.
        pseudonym: Replaces an identifier of a kind; see `cohort.Pseudonyms`.

    Raises:
        RejectedFileError: The file is no intact, single-frame grey-scale radiograph.
    """
    dataset = _parse(path)
    try:
        _check_header(dataset)
        spacing, spacing_source = _spacing(dataset)
        stored = _decode(dataset)
        grey, hidden, voi = presentation(stored, dataset)
        source = _source(dataset, voi, pseudonym)
        instance, made_from = _instances(dataset, pseudonym)
    except (RejectedFileError, MemoryError):
        raise
    except Exception:  # pydicom converts values when they are asked for, and may choke on them
        raise RejectedFileError("header") from None
    require(int(grey.min()) < int(grey.max()), "constant_image")
    return Picture(
        grey, crop_box(grey, hidden), spacing, spacing_source, source, instance, made_from
    )


def _parse(path: Path) -> Dataset:
    """The whole header with the pixel data's bytes, nothing decoded."""
    require(path.stat().st_size <= _MAX_BYTES, "file_too_large")
    data = path.read_bytes()
    require(len(data) > 0, "empty")
    if data[128:132] != b"DICM":
        require(not data.startswith(_IMAGE_STARTS), "other_format")
        # Files without a preamble begin with an element of group 2 or 8.
        require(data[:2] not in (b"\x02\x00", b"\x08\x00"), "no_preamble")
        raise RejectedFileError("not_dicom")
    try:
        meta = read_file_meta_info(path)
        start = 144 + int(meta.FileMetaInformationGroupLength)
    except (InvalidDicomError, EOFError, AttributeError, TypeError, ValueError):
        raise RejectedFileError("file_meta") from None
    syntax = meta.get("TransferSyntaxUID")
    require(syntax in _NAMES, "transfer_syntax")
    body = data[start:]
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        body = _inflate(body)
    try:
        elements = read_dataset(
            io.BytesIO(body), syntax.is_implicit_VR, syntax.is_little_endian, bytelength=len(body)
        )
    except EOFError:
        raise RejectedFileError("header_cut") from None
    except RecursionError:
        raise RejectedFileError("nested") from None
    except MemoryError:
        raise
    except Exception:
        raise RejectedFileError("header") from None
    dataset = Dataset(elements)
    dataset.file_meta = FileMetaDataset(meta)
    return dataset


def _inflate(body: bytes) -> bytes:
    """Inflates as much as a radiograph may need; a few bytes may stand for gigabytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, _MAX_BYTES)
    except zlib.error:
        raise RejectedFileError("inflate") from None
    require(not inflater.unconsumed_tail, "inflates_too_large")
    require(inflater.eof, "inflate")
    return inflated


def _check_header(dataset: Dataset) -> None:
    """Refuses what decoding would choke on."""
    require("PixelData" in dataset, "no_pixels")
    rows, columns = dataset.get("Rows") or 0, dataset.get("Columns") or 0
    require(rows > 0 and columns > 0, "no_size")
    require(rows * columns <= MAX_PIXELS, "too_large")
    require(int(dataset.get("NumberOfFrames") or 1) == 1, "frames")
    require(dataset.get("SamplesPerPixel") == 1, "colour")
    photometric = dataset.get("PhotometricInterpretation")
    require(photometric in ("MONOCHROME1", "MONOCHROME2"), "photometric")
    allocated, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored") or 0
    require(allocated in (8, 16), "bits_allocated")
    require(0 < stored <= allocated, "bits_stored")
    require(dataset.get("HighBit") == stored - 1, "high_bit")
    require(dataset.get("PixelRepresentation") in (0, 1), "header")
    require(len(dataset.PixelData or b"") > 0, "pixels_empty")


def _decode(dataset: Dataset) -> Shaped[np.ndarray, "height width"]:
    """Stored values, signed or unsigned."""
    syntax = dataset.file_meta.TransferSyntaxUID
    pixels = _unpack(dataset) if syntax in _RAW else _decompress(dataset)
    if dataset.PixelRepresentation:
        # The sign may fill the unused bits or not, and codestreams mostly carry the bits alone.
        unused = 16 - dataset.BitsStored
        pixels = (pixels.astype(np.uint16) << unused).view(np.int16) >> unused
    low, high = stored_range(dataset)
    # Unused high bits may hold overlays in old files; such values are beyond the range.
    require(low <= int(pixels.min()) and int(pixels.max()) <= high, "value_range")
    return pixels


def _dtype(dataset: Dataset) -> np.dtype:
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    kind = "i" if dataset.PixelRepresentation else "u"
    return np.dtype(f"{order}{kind}{dataset.BitsAllocated // 8}")


def _unpack(dataset: Dataset) -> Shaped[np.ndarray, "height width"]:
    dtype = _dtype(dataset)
    length = dataset.Rows * dataset.Columns * dtype.itemsize
    require(len(dataset.PixelData) >= length, "pixels_cut")
    require(len(dataset.PixelData) <= length + 1, "pixels_long")  # padded to an even length
    data = dataset.PixelData
    if dtype.itemsize == 1 and dataset["PixelData"].VR == "OW" and dtype.byteorder == ">":
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    pixels = np.frombuffer(data[:length], dtype).reshape(dataset.Rows, dataset.Columns)
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def _decompress(dataset: Dataset) -> Shaped[np.ndarray, "height width"]:
    syntax, bits = dataset.file_meta.TransferSyntaxUID, dataset.BitsStored
    shape = (dataset.Rows, dataset.Columns)
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception:
        raise RejectedFileError("encapsulation") from None
    if syntax == uid.RLELossless:
        codestream.check_rle(frame, dataset.BitsAllocated // 8)
        dtype = _dtype(dataset)
        flat = np.frombuffer(_guarded(imagecodecs.dicomrle_decode, frame, dtype), dtype)
        require(flat.size == shape[0] * shape[1], "codestream_size")
        return flat.reshape(shape)
    compression = _COMPRESSED[syntax]
    found = codestream.read_frame(frame)
    require(found.process in compression.processes, "codestream")
    require((found.height, found.width) == shape, "codestream_size")
    fits = bits <= found.bits <= dataset.BitsAllocated and found.components == 1
    require(fits, "codestream_bits")
    pixels = _guarded(compression.decode, frame)
    require(pixels.shape == shape, "codestream_size")
    return pixels


def _guarded(decode: Callable, *arguments):
    try:
        return decode(*arguments)
    except MemoryError:
        raise
    except Exception:  # decoders raise what they like, with texts that may quote the header
        raise RejectedFileError("undecodable") from None


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
    require(max(spacing) <= 1.01 * min(spacing), "oblong_pixels")
    return float(spacing[0])


def _source(dataset: Dataset, voi: str, pseudonym: Callable[[str, str], str]) -> Source:
    intent = str(dataset.get("PresentationIntentType") or "").removeprefix("FOR ").lower()
    sex = str(dataset.get("PatientSex") or "")
    return Source(
        syntax=_NAMES[dataset.file_meta.TransferSyntaxUID],
        bits=int(dataset.BitsStored),
        photometric=str(dataset.PhotometricInterpretation),
        voi=voi,
        intent=intent if intent in INTENTS else "unknown",
        vendor=_vendor(str(dataset.get("Manufacturer") or ""), pseudonym),
        sex=sex if sex in SEXES else "unknown",
        age=_age(dataset),
    )


def _vendor(manufacturer: str, pseudonym: Callable[[str, str], str]) -> str:
    words = manufacturer.upper().split()
    if not words:
        return "unknown"
    for vendor in VENDORS:
        if words[0].startswith(vendor.upper()):
            return vendor
    return pseudonym("vendor", manufacturer)


def _age(dataset: Dataset) -> int:
    """Age in years, at most GREATEST_AGE, 0 where unknown."""
    text = str(dataset.get("PatientAge") or "")
    if len(text) == 4 and text[:3].isdecimal() and text[3] == "Y":
        return min(int(text[:3]), GREATEST_AGE)
    born, taken = (str(dataset.get(k) or "") for k in ("PatientBirthDate", "StudyDate"))
    if len(born) == len(taken) == 8 and (born + taken).isdecimal():
        years = (int(taken) - int(born)) // 10_000  # YYYYMMDD: the rest is below a year
        return min(max(years, 0), GREATEST_AGE)
    return 0


def _instances(
    dataset: Dataset, pseudonym: Callable[[str, str], str]
) -> tuple[str, tuple[str, ...]]:
    """This instance, and those that it was processed from (PS3.3 C.7.6.1.1.4)."""
    own = str(dataset.get("SOPInstanceUID") or "")
    sources = (
        str(item.get("ReferencedSOPInstanceUID") or "")
        for item in dataset.get("SourceImageSequence") or ()
    )
    return (
        pseudonym("instance", own) if own else "",
        tuple(pseudonym("instance", source) for source in sources if source),
    )
