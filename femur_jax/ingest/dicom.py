"""Reads the grey values of a DICOM file and the few facts of its header that are kept.

All checks that are possible come before decoding, those of sizes first, since a header of a few
bytes can request all memory. Each transfer syntax with compressed pixels has one decoder, which
receives only the codestream.
"""

import io
import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import Bool, Shaped, UInt16
from pydicom import uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.filereader import data_element_generator
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import STR_VR

from femur_jax.data.radiograph import GREATEST_AGE, INTENTS, SEXES, Box, Source
from femur_jax.ingest import codestream
from femur_jax.ingest.collimation import crop_box
from femur_jax.ingest.grey import presentation, stored_range
from femur_jax.ingest.layout import is_smooth
from femur_jax.ingest.polarity import POSITIVE, polarity
from femur_jax.ingest.rejection import RejectedFileError, require

MAX_PIXELS = 40_000_000
_MAX_BYTES = 2 * MAX_PIXELS + (16 << 20)
"""Bound on the bytes of a whole file, also after inflating it."""
_MAX_PIECES = 100_000
"""Bound on elements, items and fragments; each becomes an object far larger than its bytes."""
_MAX_VALUE = 1 << 20
"""Bound on the bytes of a header's element; a lookup table has at most 2 ** 17."""

_MOST_CLIPPED, _MOST_FAR = 0.05, 0.001
"""Greatest shares of pixels that lossy compression may have moved beyond the stored range, and that
are further beyond than a sixteenth of the range."""

_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END = 0xFFFEE000, 0xFFFEE00D
_UNDEFINED = 0xFFFFFFFF
_USED = [
    tag_for_keyword(keyword) or 0
    for keyword in (
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("PixelSpacing", "ImagerPixelSpacing", "PixelSpacingCalibrationType"),
        *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction"),
        *("PresentationLUTShape", "PresentationLUTSequence"),
        *("PixelPaddingValue", "PixelPaddingRangeLimit", "ShutterShape"),
        *("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge"),
        *("ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge"),
        *("CenterOfCircularShutter", "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter"),
        *("PresentationIntentType", "Manufacturer", "SOPInstanceUID", "SourceImageSequence"),
        *("PatientSex", "PatientAge", "PatientBirthDate", "StudyDate"),
    )
]
"""Tags of all elements that are read; the values of other elements are skipped."""

_TABLES = [Tag(f"{name}LUTSequence") for name in ("Modality", "VOI")]
"""Tags of sequences that hold lookup tables."""

_RAW = {
    uid.ImplicitVRLittleEndian: "implicit",
    uid.ExplicitVRLittleEndian: "explicit",
    uid.ExplicitVRBigEndian: "big-endian",
    uid.DeflatedExplicitVRLittleEndian: "deflated",
}


@dataclass(frozen=True)
class _Compression:
    """The decoder of a transfer syntax, and the codestreams that the syntax allows."""

    name: str
    decode: Callable[[bytes], np.ndarray]
    processes: tuple[int, ...]
    parameters: range = range(1)


_JPEG, _JPEG_LS, _JPEG_2000 = (
    imagecodecs.jpeg8_decode,
    imagecodecs.jpegls_decode,
    imagecodecs.jpeg2k_decode,
)
_COMPRESSED = {
    uid.JPEGBaseline8Bit: _Compression("JPEG baseline", _JPEG, (codestream.BASELINE,)),
    uid.JPEGExtended12Bit: _Compression(
        "JPEG extended", _JPEG, (codestream.BASELINE, codestream.EXTENDED)
    ),
    uid.JPEGLossless: _Compression("JPEG lossless", _JPEG, (codestream.LOSSLESS,), range(1, 8)),
    uid.JPEGLosslessSV1: _Compression(
        "JPEG lossless SV1", _JPEG, (codestream.LOSSLESS,), range(1, 2)
    ),
    uid.JPEGLSLossless: _Compression("JPEG-LS", _JPEG_LS, (codestream.JPEG_LS,)),
    uid.JPEGLSNearLossless: _Compression(
        "JPEG-LS near-lossless", _JPEG_LS, (codestream.JPEG_LS,), range(256)
    ),
    uid.JPEG2000Lossless: _Compression("JPEG 2000 lossless", _JPEG_2000, (codestream.JPEG_2000,)),
    uid.JPEG2000: _Compression("JPEG 2000", _JPEG_2000, (codestream.JPEG_2000,)),
}
_LOSSY = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
)
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
"""Makers whose name is kept, since it reveals nothing about a patient; others get a pseudonym."""

_CONTRADICTIONS = (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE"))
"""Photometric interpretations and Presentation LUT shapes that exclude each other (C.8.11.3)."""

_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
_OTHER_STARTS = (b"GIF8", b"BM", b"%PDF", b"RIFF", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


@dataclass(frozen=True)
class Picture:
    """Content of a file that was read.

    Attributes:
        pixels: Grey values (0..65535, bone bright) of the whole recorded image.
        crop: The area that shows the patient.
        spacing_mm: Side of a pixel in mm, 0.0 where unknown.
        spacing_source: One of `radiograph.SPACING_SOURCES`.
        source: Facts about the file's origin.
        instance: Pseudonym of the SOP Instance UID, "" where there is none.
        made_from: Pseudonyms of the instances that this one was processed from.
        hidden: Mask of padding and of pixels behind shutters, which are black; None for none.
    """

    pixels: UInt16[np.ndarray, "height width"]
    crop: Box
    spacing_mm: float
    spacing_source: str
    source: Source
    instance: str = ""
    made_from: tuple[str, ...] = ()
    hidden: Bool[np.ndarray, "height width"] | None = None


def read_dicom(path: Path, pseudonym: Callable[[str, str], str]) -> Picture:
    """Reads one grey-scale radiograph.

    Args:
        path: Path of the DICOM file.
        pseudonym: Function that replaces an identifier of a kind; see `cohort.Pseudonyms`.

    Raises:
        RejectedFileError: The file is not an intact, single-frame grey-scale radiograph.
    """
    try:
        dataset, pixel_data = _parse(_part10(file_bytes(path)))
        _check_header(dataset)
        spacing, spacing_source = _spacing(dataset)
        stored, clipped = _decode(dataset, pixel_data)
        require(is_smooth(stored, dataset.BitsStored), "layout")
        grey, hidden, voi, limits = presentation(stored, dataset)
        header = (dataset.PhotometricInterpretation, dataset.get("PresentationLUTShape"))
        require(header not in _CONTRADICTIONS or polarity(grey) == POSITIVE, "polarity")
        source = _source(dataset, voi, limits, clipped, pseudonym)
        instance, made_from = _instances(dataset, pseudonym)
    except (RejectedFileError, MemoryError):
        raise
    except Exception:  # pydicom converts a value when it is accessed, and may fail
        raise RejectedFileError("header") from None
    crop = crop_box(grey, hidden)
    return Picture(grey, crop, spacing, spacing_source, source, instance, made_from, hidden)


def file_bytes(path: Path) -> bytes:
    """Reads all bytes of a file that may be a radiograph.

    Raises:
        RejectedFileError: The file cannot be opened, is empty, or is far too large.
    """
    try:
        require(path.is_file(), "unreadable")  # and not a pipe, for example, which may never end
        require(path.stat().st_size <= _MAX_BYTES, "file_too_large")
        data = path.read_bytes()
    except OSError:
        raise RejectedFileError("unreadable") from None
    require(len(data) > 0, "empty")
    return data


def _part10(data: bytes) -> bytes:
    """Returns the bytes if they begin like a DICOM file (PS3.10 7.1)."""
    if data[128:132] != b"DICM":
        require(not data.startswith(_IMAGE_STARTS), "other_format")
        require(not data.startswith(_OTHER_STARTS), "unsupported_format")
        # A file without a preamble begins with an element of group 2 or 8.
        require(data[:2] not in (b"\x02\x00", b"\x08\x00"), "no_preamble")
        raise RejectedFileError("not_dicom")
    return data


def _parse(data: bytes) -> tuple[Dataset, RawDataElement]:
    """The elements of _USED and the pixel data, which is not decoded yet."""
    source = _Pieces(data, 132, _MAX_VALUE)
    meta = _elements(source, uid.ExplicitVRLittleEndian, "file_meta", lambda tag: tag >> 16 != 2)
    syntax = Dataset(meta).get("TransferSyntaxUID")
    require(isinstance(syntax, uid.UID) and syntax in _NAMES, "transfer_syntax")
    start = source.tell()
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data, start = _inflate(data[start:]), 0
    source = _Pieces(data, start, _MAX_VALUE)
    header = _elements(source, syntax, "header_cut", lambda tag: tag >= _PIXEL_DATA, _USED)
    require(source.tell() <= len(data), "header_cut")
    for tag in _TABLES:
        if tag in header:
            header[tag] = _first_item(data, header[tag], syntax)
    source = _Pieces(data, source.tell())
    pixel_data = _elements(source, syntax, "pixels_cut", lambda tag: tag != _PIXEL_DATA)
    require(len(pixel_data) == 1, "no_pixels")
    [pixels] = pixel_data.values()
    if not isinstance(pixels, RawDataElement):
        raise RejectedFileError("encapsulation")
    _check_rest(_Pieces(data, source.tell()), syntax, pixels)
    for tag, element in header.items():
        text = (element.VR or "UN") in STR_VR
        require(element.VR in (None, "UN") or text == (dictionary_VR(tag) in STR_VR), "header")
    dataset = Dataset(header)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset, pixels


class _Pieces(io.BytesIO):
    """Bytes that are read in pieces, with a bound on their number and length."""

    def __init__(self, data: bytes, start: int, longest: int = _UNDEFINED):
        super().__init__(data)
        self.seek(start)
        self._left, self._longest = _MAX_PIECES, longest

    def read(self, size: int | None = -1) -> bytes:
        self._left -= 1
        require(self._left >= 0, "too_many_elements")
        require(size is None or size <= self._longest, "element_too_large")
        return super().read(size)


def _elements(
    source: _Pieces,
    syntax: uid.UID,
    cut: str,
    end: Callable[[int], bool],
    used: list[BaseTag | int] | None = None,
) -> dict[BaseTag, RawDataElement | DataElement]:
    """Elements before the tag that is the `end`; `cut` is the code where the bytes end earlier.

    Raises:
        RejectedFileError: An element is malformed, or occurs twice with different values.
    """
    elements: dict[BaseTag, RawDataElement | DataElement] = {}
    try:
        for element in data_element_generator(
            source,
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            stop_when=lambda tag, vr, length: end(tag),
            specific_tags=used,
        ):
            first = elements.setdefault(element.tag, element)
            require(first is element or first.value == element.value, "header")
    except Exception as error:
        cause: BaseException = error
        while cause.__context__ is not None:  # pydicom wraps an exception within a sequence
            cause = cause.__context__
        if isinstance(cause, RejectedFileError | MemoryError):
            raise cause from None
        if isinstance(cause, RecursionError):
            raise RejectedFileError("nested") from None
        is_cut = isinstance(cause, EOFError | OSError | struct.error)
        raise RejectedFileError(cut if is_cut else "header") from None
    for element in elements.values():
        if isinstance(element, RawDataElement) and element.length != _UNDEFINED:
            require(len(element.value or b"") == element.length, cut)
    return elements


def _first_item(
    data: bytes, sequence: RawDataElement | DataElement, syntax: uid.UID
) -> RawDataElement | DataElement:
    """The sequence with its first item alone, whose values are raw bytes.

    pydicom guesses the sign of numbers in an item, and keeps the last of two equal tags.
    """
    raw = isinstance(sequence, RawDataElement)
    start = (sequence.value_tell if raw else sequence.file_tell) or 0
    order = "<" if syntax.is_little_endian else ">"
    group, element, length = struct.unpack_from(f"{order}HHI", data, start)
    if not sequence.value or group << 16 | element != _ITEM:
        return sequence
    start += 8
    # A copy of an item without a length would be one of all pixels.
    source = _Pieces(data, start, _MAX_VALUE)
    if length != _UNDEFINED:
        source = _Pieces(data[start : start + length], 0, _MAX_VALUE)
    item = _elements(source, syntax, "header_cut", lambda tag: tag == _ITEM_END)
    return DataElement(sequence.tag, "SQ", Sequence([Dataset(item)]))


def _check_rest(source: _Pieces, syntax: uid.UID, pixels: RawDataElement) -> None:
    """Refuses elements after the pixels that a reader of the whole file would take instead."""
    try:
        for element in data_element_generator(
            source,
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            specific_tags=[*_USED, _PIXEL_DATA],
        ):
            again = element.tag == _PIXEL_DATA and element.value == pixels.value
            require(again or element.tag not in (*_USED, _PIXEL_DATA), "header")
    except MemoryError:
        raise
    except RejectedFileError as error:
        if error.code == "header":
            raise
    except Exception:  # what follows is padding and not an element
        return


def _inflate(body: bytes) -> bytes:
    """Inflates at most the size of a radiograph; a few bytes may expand to gigabytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, _MAX_BYTES)
    except zlib.error:
        raise RejectedFileError("inflate") from None
    require(not inflater.unconsumed_tail, "inflates_too_large")
    require(inflater.eof, "inflate")
    return inflated


def _check_header(dataset: Dataset) -> None:
    """Refuses a header that cannot be decoded safely."""
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


def _decode(
    dataset: Dataset, pixel_data: RawDataElement
) -> tuple[Shaped[np.ndarray, "height width"], int]:
    """Decodes the stored values, signed or unsigned, and counts those that were clipped."""
    syntax = dataset.file_meta.TransferSyntaxUID
    require(len(pixel_data.value or b"") > 0, "pixels_empty")
    wrapped = pixel_data.length == _UNDEFINED
    require(wrapped == syntax.is_encapsulated, "syntax_contradicted")
    if not wrapped:
        pixels = _unpack(dataset, pixel_data)
    elif syntax == uid.RLELossless:
        pixels = _decompress_rle(dataset, _frame(pixel_data))
    else:
        pixels = _decompress(dataset, _frame(pixel_data))
    low, high = stored_range(dataset)
    if dataset.PixelRepresentation:
        pixels = pixels.astype(np.uint16).view(np.int16)
        if low <= int(pixels.min()) and int(pixels.max()) <= high - low:
            # The sign need not extend over the unused bits, which most codestreams lack.
            unused = 16 - dataset.BitsStored
            pixels = (pixels << unused) >> unused
    if low <= int(pixels.min()) and int(pixels.max()) <= high:
        return pixels, 0
    # In old files the unused high bits may hold overlays; such values are out of range. Lossy
    # compression rings at sharp edges.
    require(syntax in _LOSSY, "value_range")
    room = (high - low) // 16
    far = np.count_nonzero((pixels < low - room) | (pixels > high + room))
    clipped = int(np.count_nonzero((pixels < low) | (pixels > high)))
    few = far <= _MOST_FAR * pixels.size and clipped <= _MOST_CLIPPED * pixels.size
    require(bool(few), "value_range")
    return np.clip(pixels, low, high), clipped


def _dtype(dataset: Dataset) -> np.dtype:
    kind = "i" if dataset.PixelRepresentation else "u"
    return np.dtype(f"<{kind}{dataset.BitsAllocated // 8}")


def _unpack(dataset: Dataset, pixel_data: RawDataElement) -> Shaped[np.ndarray, "height width"]:
    dtype = _dtype(dataset)
    data = pixel_data.value or b""
    number = dataset.Rows * dataset.Columns
    require(len(data) >= number * dtype.itemsize, "pixels_cut")
    require(len(data) <= number * dtype.itemsize + 1, "pixels_long")  # padded to an even length
    if not pixel_data.is_little_endian and (dtype.itemsize == 2 or pixel_data.VR == "OW"):
        data = np.frombuffer(data, np.uint16).byteswap().tobytes()
    return np.frombuffer(data, dtype, number).reshape(dataset.Rows, dataset.Columns)


def _frame(pixel_data: RawDataElement) -> bytes:
    """The single frame's codestream, which may be stored in several fragments."""
    try:
        source = _Pieces(pixel_data.value or b"", 0)
        offsets = parse_basic_offsets(source)
        frame = b"".join(generate_fragments(source))
    except (ValueError, struct.error):
        raise RejectedFileError("encapsulation") from None
    require(offsets in ([], [0]), "encapsulation")
    return frame


def _decompress_rle(dataset: Dataset, frame: bytes) -> Shaped[np.ndarray, "height width"]:
    """RLE (PS3.5 G): the bytes of all pixels, most significant first, in segments of PackBits."""
    shape = (dataset.Rows, dataset.Columns)
    size = math.prod(shape)
    segments = codestream.rle_segments(frame, dataset.BitsAllocated // 8)
    pixels = np.empty((size, len(segments)), np.uint8)
    for byte, segment in enumerate(reversed(segments)):
        plane = _guarded(imagecodecs.packbits_decode, segment, out=size)
        require(len(plane) == size, "codestream_size")
        pixels[:, byte] = np.frombuffer(plane, np.uint8)
    return pixels.view(_dtype(dataset)).reshape(shape)


def _decompress(dataset: Dataset, frame: bytes) -> Shaped[np.ndarray, "height width"]:
    compression = _COMPRESSED[dataset.file_meta.TransferSyntaxUID]
    shape = (dataset.Rows, dataset.Columns)
    stated = codestream.read_frame(frame)
    require(stated.process in compression.processes, "codestream")
    require(stated.parameter in compression.parameters, "codestream")
    require((stated.height, stated.width) == shape, "codestream_size")
    # Cosine transforms scale values to their bits; others keep them, so fewer bits do no harm, but
    # a sign must be known.
    keeps = stated.process not in (codestream.BASELINE, codestream.EXTENDED)
    keeps = keeps and (stated.signed or not dataset.PixelRepresentation)
    fits = stated.components == 1 and stated.bits <= dataset.BitsAllocated
    require(fits and (keeps or dataset.BitsStored <= stated.bits), "codestream_bits")
    pixels = _guarded(compression.decode, frame)
    require(pixels.shape == shape, "codestream_size")
    if stated.process == codestream.LOSSLESS:
        require(codestream.lossless_bits_fit(frame, pixels), "codestream")
    return pixels


def _guarded(decode: Callable, *arguments, **options):
    try:
        return decode(*arguments, **options)
    except MemoryError:
        raise
    except Exception:  # of any type, with messages that may quote the header
        raise RejectedFileError("undecodable") from None


def _spacing(dataset: Dataset) -> tuple[float, str]:
    """Pixel spacing in mm and its source (PS3.3 10.7.1)."""
    in_patient = _square(dataset.get("PixelSpacing"))
    at_detector = _square(dataset.get("ImagerPixelSpacing"))
    if in_patient and (in_patient != at_detector or "PixelSpacingCalibrationType" in dataset):
        calibrated = at_detector or "PixelSpacingCalibrationType" in dataset
        return in_patient, "calibrated" if calibrated else "unknown"
    if at_detector:
        return at_detector, "detector"
    return 0.0, "unknown"


def _square(spacing) -> float:
    """The side of a square pixel in mm, 0.0 where the spacing is missing or invalid."""
    if not isinstance(spacing, MultiValue) or len(spacing) != 2:
        return 0.0
    if not 0 < min(spacing) <= max(spacing) < math.inf:
        return 0.0
    require(max(spacing) <= 1.01 * min(spacing), "oblong_pixels")
    return float(spacing[0])


def _source(
    dataset: Dataset,
    voi: str,
    limits: tuple[float, ...],
    clipped: int,
    pseudonym: Callable[[str, str], str],
) -> Source:
    intent = str(dataset.get("PresentationIntentType") or "").removeprefix("FOR ").lower()
    sex = str(dataset.get("PatientSex") or "")
    return Source(
        syntax=_NAMES[dataset.file_meta.TransferSyntaxUID],
        bits=int(dataset.BitsStored),
        photometric=str(dataset.PhotometricInterpretation),
        voi=voi,
        limits=limits,
        clipped=clipped,
        intent=intent if intent in INTENTS else "unknown",
        vendor=_vendor(str(dataset.get("Manufacturer") or ""), pseudonym),
        sex=sex if sex in SEXES else "unknown",
        age=patient_age(dataset),
    )


def _vendor(manufacturer: str, pseudonym: Callable[[str, str], str]) -> str:
    if not manufacturer.strip():
        return "unknown"
    [word, *_] = re.findall("[A-Z]+", manufacturer.upper()) or [""]
    for vendor in VENDORS:
        # Many words begin with the two letters of GE.
        if word == vendor.upper() or (len(vendor) > 2 and word.startswith(vendor.upper())):
            return vendor
    return pseudonym("vendor", manufacturer)


def patient_age(dataset: Dataset) -> int:
    """Age in years, at most GREATEST_AGE, 0 where unknown."""
    text = str(dataset.get("PatientAge") or "")
    if len(text) == 4 and text[:3].isdecimal() and text[3] == "Y":
        return min(int(text[:3]), GREATEST_AGE)
    born, taken = (str(dataset.get(k) or "") for k in ("PatientBirthDate", "StudyDate"))
    if len(born) == len(taken) == 8 and (born + taken).isdecimal():
        years = (int(taken) - int(born)) // 10_000  # YYYYMMDD: the remainder is less than a year
        return min(max(years, 0), GREATEST_AGE)
    return 0


def _instances(
    dataset: Dataset, pseudonym: Callable[[str, str], str]
) -> tuple[str, tuple[str, ...]]:
    """Pseudonyms of this instance and of those it was processed from (PS3.3 C.7.6.1.1.4)."""
    instance = str(dataset.get("SOPInstanceUID") or "")
    sources = (
        str(item.get("ReferencedSOPInstanceUID") or "")
        for item in dataset.get("SourceImageSequence") or ()
    )
    return (
        pseudonym("instance", instance) if instance else "",
        tuple(pseudonym("instance", source) for source in sources if source),
    )
