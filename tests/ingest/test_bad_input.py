"""Inputs that are known to mislead or exhaust readers: each is refused with its code."""

import io
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from femur_jax.ingest.dicom import read_dicom
from femur_jax.ingest.rejection import REASONS, RejectedFileError
from tests.ingest.conftest import encode_frame, same, smooth_values, write_dicom

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom warns of the bad values

STORED = smooth_values()
JPEG, JPEG_LS, RLE = uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.RLELossless
DEFLATED = uid.DeflatedExplicitVRLittleEndian


def _write(path, **options):
    return write_dicom(path, options.pop("stored", STORED), **options)


def _with(**options):
    """A file with some wrong elements; see `write_dicom`."""
    return lambda path: _write(path, **options)


def _bytes(change, **options):
    """A file whose bytes were changed after it was written."""

    def make(path):
        _write(path, **options)
        path.write_bytes(change(path.read_bytes()))

    return make


def _content(data):
    return lambda path: path.write_bytes(data)


def _png():
    file = io.BytesIO()
    Image.fromarray(STORED).save(file, "PNG")
    return file.getvalue()


def _meta_length(data):
    return 144 + struct.unpack_from("<I", data, 140)[0]


def _inserted(element):
    """Bytes of an element between the file meta and the dataset."""
    return lambda data: data[: _meta_length(data)] + element + data[_meta_length(data) :]


def _deflated(begin, repeated, times):
    """A deflated file; after a full flush, the repeated content is compressed independently."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = deflater.compress(begin) + deflater.flush(zlib.Z_FULL_FLUSH)
    unit = deflater.compress(repeated) + deflater.flush(zlib.Z_FULL_FLUSH)
    body = start + unit * times + deflater.flush()
    return _bytes(lambda data: data[: _meta_length(data)] + body, syntax=DEFLATED)


def _element(tag, vr, value):
    header = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN"):
        return header + struct.pack("<HI", 0, len(value)) + value
    return header + struct.pack("<H", len(value)) + value


ITEM, ITEM_END = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE, SEQUENCE_END = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\xdd\xe0\0\0\0\0"
NESTED = (SEQUENCE + ITEM) * 3000 + (ITEM_END + SEQUENCE_END) * 3000


def _nested_lengths(depth):
    """Nested sequences with explicit lengths."""
    inner = b""
    for _ in range(depth):
        inner = _element(
            0x00081140, b"SQ", b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
        )
    return inner


RESCALED = {"RescaleSlope": "2", "RescaleIntercept": "0"}


def _frame_of(syntax, change):
    return _with(syntax=syntax, frame=change(encode_frame(STORED, syntax)))


def _wrapped(fragments):
    """Encapsulated pixel data with these fragments after an empty offset table."""

    def change(dataset):
        dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" + fragments

    return change


def _two_frames(dataset):
    frame = encode_frame(STORED, JPEG)
    dataset.PixelData = encapsulate([frame, frame])


def _voi_lut(entries, descriptor):
    def change(dataset):
        item = Dataset()
        item.LUTDescriptor = descriptor
        item.add_new("LUTData", "OW", np.arange(entries, dtype="<u2").tobytes())
        dataset.VOILUTSequence = Sequence([item])

    return change


BAD = {
    # not a DICOM file, or an incomplete one
    "empty": ("empty", _content(b"")),
    "text": ("not_dicom", _content(b"path,patient_id,hospital,label\n" * 20)),
    "PNG": ("other_format", _content(_png())),
    "BMP": ("unsupported_format", _content(b"BM" + bytes(200))),
    "PDF": ("unsupported_format", _content(b"%PDF-1.7" + bytes(200))),
    "no preamble": ("no_preamble", _bytes(lambda data: data[132:])),
    "no transfer syntax": (
        "transfer_syntax",
        _bytes(lambda data: data.replace(b"1.2.1\0", b"9.9.9\0", 1)),
    ),
    "HTJ2K": ("transfer_syntax", _with(syntax=uid.HTJ2KLossless, frame=b"\xff\xd9")),
    "nothing after the preamble": ("transfer_syntax", _bytes(lambda data: data[:132])),
    "file meta cut": ("file_meta", _bytes(lambda data: data[: data.index(b"1.2.1\0") + 3])),
    "deflated content damaged": ("inflate", _bytes(lambda data: data[:-900], syntax=DEFLATED)),
    "a folder": ("unreadable", lambda path: path.mkdir()),
    "nothing": ("unreadable", lambda path: None),
    # header
    "element of 4 GB": ("header_cut", _bytes(_inserted(b"\x08\0\x08\0OB\0\0\xfe\xff\xff\xff"))),
    "cut in the header": (
        "header_cut",
        _bytes(lambda data: data[: data.index(b"MONOCHROME2") + 4]),
    ),
    "nested 3000 deep": ("nested", _bytes(_inserted(NESTED))),
    "a sequence without end": (
        "header_cut",
        _bytes(lambda data: data[: _meta_length(data)] + SEQUENCE),
    ),
    "no pixel data": ("no_pixels", _with(PixelData=None)),
    "Rows 0": ("no_size", _with(Rows=0)),
    "no Columns": ("no_size", _with(Columns=None)),
    "Rows x Columns 65535^2 in RLE": ("too_large", _with(syntax=RLE, Rows=65535, Columns=65535)),
    "NumberOfFrames 10^6": ("frames", _with(NumberOfFrames=10**6)),
    "SamplesPerPixel 3": ("colour", _with(SamplesPerPixel=3)),
    "RGB": ("photometric", _with(PhotometricInterpretation="RGB")),
    "unknown photometric": ("photometric", _with(PhotometricInterpretation="GREY")),
    "BitsAllocated 32": ("bits_allocated", _with(BitsAllocated=32)),
    "BitsStored > BitsAllocated": ("bits_stored", _with(BitsStored=17)),
    "BitsStored 0": ("bits_stored", _with(BitsStored=0)),
    "wrong HighBit": ("high_bit", _with(HighBit=15)),
    "PixelRepresentation 2": ("header", _with(PixelRepresentation=2)),
    "two values of Rows": ("header", _with(Rows=[33, 33])),
    "oblong pixels": ("oblong_pixels", _with(PixelSpacing=[0.1, 0.12])),
    "infinite rescale": ("rescale", _with(RescaleSlope="1e308", RescaleIntercept="0")),
    "window of width 0": ("window", _with(WindowWidth=0, WindowCenter=5)),
    "linear window below 1": ("window", _with(WindowWidth=0.5, WindowCenter=5)),
    "window without center": ("window", _with(WindowWidth=100)),
    "window without width": ("window", _with(WindowCenter=100)),
    "unknown window function": (
        "window",
        _with(WindowWidth=9, WindowCenter=5, VOILUTFunction="CUBIC"),
    ),
    "table shorter than its descriptor": (
        "lookup_table",
        _with(change=_voi_lut(100, [4096, 0, 16])),
    ),
    "table without bits": ("lookup_table", _with(change=_voi_lut(4096, [4096, 0, 0]))),
    "table with two numbers": ("lookup_table", _with(change=_voi_lut(4096, [4096, 0]))),
    "shutter without edges": ("shutter", _with(ShutterShape="RECTANGULAR")),
    "shutter with half a corner": (
        "shutter",
        _with(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[1, 1, 9, 9, 5]),
    ),
    "shutter that hides everything": (
        "shutter",
        _with(
            ShutterShape="CIRCULAR",
            CenterOfCircularShutter=[500, 500],
            RadiusOfCircularShutter=9,
        ),
    ),
    "text coded as a number": (
        "header",
        _bytes(lambda data: data.replace(b"\x53\x10DS", b"\x53\x10SS"), **RESCALED),
    ),
    "number coded as text": (
        "header",
        _bytes(lambda data: data.replace(b"\x01\x01US", b"\x01\x01LO")),
    ),
    # pixel data
    "no bytes of pixels": ("pixels_empty", _with(frame=b"")),
    "native pixels cut": ("pixels_cut", _bytes(lambda data: data[:-100])),
    "fewer pixels than stated": ("pixels_cut", _with(Rows=40)),
    "BitsAllocated 8 on 16-bit data": (
        "pixels_long",
        _with(BitsAllocated=8, BitsStored=8, HighBit=7),
    ),
    "declared native, but JPEG": (
        "syntax_contradicted",
        _bytes(
            lambda data: data.replace(uid.JPEGLosslessSV1.encode(), b"1.2.840.10008.1.2.1\0\0\0"),
            syntax=JPEG,
        ),
    ),
    "declared RLE, but native": (
        "syntax_contradicted",
        _bytes(lambda data: data.replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.5")),
    ),
    "file cut in a codestream": ("pixels_cut", _bytes(lambda data: data[:-500], syntax=JPEG)),
    "two codestreams": ("encapsulation", _with(syntax=JPEG, change=_two_frames)),
    "no fragments": ("codestream", _with(syntax=JPEG, change=_wrapped(b""))),
    "no codestream": ("codestream", _with(syntax=JPEG, frame=b"no codestream\xff\xd9")),
    "JPEG-LS declared as JPEG": (
        "codestream",
        _with(syntax=JPEG, frame=encode_frame(STORED, JPEG_LS)),
    ),
    "another predictor than SV1's": (
        "codestream",
        _with(syntax=JPEG, frame=encode_frame(STORED, uid.JPEGLossless)),
    ),
    "near-lossless declared as lossless": (
        "codestream",
        _with(syntax=JPEG_LS, frame=encode_frame(STORED, uid.JPEGLSNearLossless)),
    ),
    "short JPEG": ("codestream_cut", _frame_of(JPEG, lambda code: code[:-200])),
    "short JPEG 2000": (
        "codestream_cut",
        _frame_of(uid.JPEG2000Lossless, lambda code: code[:-200]),
    ),
    "truncated JPEG-LS": (
        "codestream_cut",
        _frame_of(JPEG_LS, lambda code: code[: len(code) // 2]),
    ),
    "JPEG-LS with false Rows": ("codestream_size", _with(syntax=JPEG_LS, Rows=32)),
    "JPEG with sides exchanged": ("codestream_size", _with(syntax=JPEG, Rows=47, Columns=33)),
    "RLE with false Rows": ("codestream_size", _with(syntax=RLE, Rows=34)),
    "codestream with more bits than allocated": (
        "codestream_bits",
        _with(syntax=JPEG, BitsAllocated=8, BitsStored=8, HighBit=7),
    ),
    "cosine transform with fewer bits than stored": (
        "codestream_bits",
        _with(syntax=uid.JPEGExtended12Bit, BitsStored=16, HighBit=15),
    ),
    "signed codestream with fewer bits than stored": (
        "codestream_bits",
        _with(syntax=JPEG, BitsStored=16, HighBit=15, PixelRepresentation=1),
    ),
    "JP2 file in place of a codestream": (
        "jp2",
        _with(
            syntax=uid.JPEG2000Lossless,
            frame=bytes(imagecodecs.jpeg2k_encode(STORED, codecformat="jp2")),
        ),
    ),
    "RLE of one byte a pixel": (
        "codestream_bits",
        _with(syntax=RLE, stored=smooth_values(8), bits=8, BitsAllocated=16),
    ),
    "short RLE": ("undecodable", _frame_of(RLE, lambda code: code[:-301])),
    "RLE segment cut between runs": (
        "codestream_size",
        _with(syntax=RLE, frame=struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\0\x81\0"),
    ),
    # grey values
    "values beyond BitsStored": ("value_range", _with(BitsStored=11, HighBit=10)),
    "constant image": ("constant_image", _with(stored=np.full((9, 9), 7, np.uint16))),
    "constant but for padding": (
        "constant_image",
        _with(
            stored=np.where(np.eye(9) > 0, 0, 7).astype(np.uint16),
            PixelPaddingValue=0,
            PhotometricInterpretation="MONOCHROME1",
        ),
    ),
    "slope 0": ("rescale", _with(RescaleSlope="0", RescaleIntercept="0")),
    "sides exchanged": ("layout", _with(Rows=47, Columns=33)),
    "sides exchanged in RLE": ("layout", _with(syntax=RLE, Rows=47, Columns=33)),
    "unsigned values as signed ones": (
        "layout",
        _with(stored=smooth_values(shape=(80, 120)), PixelRepresentation=1),
    ),
    "signed values as unsigned ones": (
        "layout",
        _with(
            stored=smooth_values(16, signed=True, shape=(80, 120)),
            bits=16,
            PixelRepresentation=0,
        ),
    ),
    "slope without intercept": ("rescale", _with(RescaleSlope="2")),
    "intercept without slope": ("rescale", _with(RescaleIntercept="-1024", RescaleSlope="")),
    "table of 12 bits that states 16": (
        "lookup_table",
        _with(change=_voi_lut(4096, [4096, 0, 16])),
    ),
    "window beyond all values": ("blank", _with(WindowWidth=9, WindowCenter=9999)),
}


def _code(path):
    with pytest.raises(RejectedFileError) as error:
        read_dicom(path, same)
    return error.value.code


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_their_code(tmp_path, name):
    code, make = BAD[name]
    make(tmp_path / "f")
    assert _code(tmp_path / "f") == code


def test_lengths_of_nested_sequences_do_no_harm(tmp_path):
    """They are skipped in one step."""
    _bytes(_inserted(_nested_lengths(3000)))(tmp_path / "f")
    assert read_dicom(tmp_path / "f", same).pixels.shape == STORED.shape


def test_identifiers_that_are_paths_lead_nowhere(tmp_path):
    names = {"SOPInstanceUID": "../../etc/passwd", "PatientID": "../x", "Manufacturer": "../../y"}
    path = write_dicom(tmp_path / "f", STORED, **names)
    picture = read_dicom(path, lambda kind, name: "pseudonym")
    assert ".." not in repr((picture.source, picture.instance, picture.made_from))
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_rejections_quote_nothing_of_the_header(tmp_path):
    for make in (
        _with(syntax=JPEG, frame=b"CANARY\xff\xd9", PatientName="CANARY^Anna"),
        _bytes(lambda data: data.replace(b"123456", b"CANARY"), WindowCenter="123456"),
    ):
        make(tmp_path / "f")
        assert b"CANARY" in (tmp_path / "f").read_bytes()
        with pytest.raises(RejectedFileError) as error:
            read_dicom(tmp_path / "f", same)
        assert "CANARY" not in repr(error.value)
        assert error.value.__suppress_context__ or error.value.__context__ is None


# Files that request very much memory or time are read under limits of both.

ELEMENTS = b"".join(_element(0x00090000 + number, b"LO", b"") for number in range(0x10, 0x8000))
BOMBS = {
    "deflated bomb": ("inflates_too_large", _deflated(ELEMENTS[:800], bytes(1 << 20), 3 << 10)),
    "9 million elements": ("too_many_elements", _deflated(b"", ELEMENTS, 280)),
    "9 million items": (
        "too_many_elements",
        _deflated(SEQUENCE, b"\xfe\xff\x00\xe0\0\0\0\0" * 9000, 1000),
    ),
    "8 million window widths": (
        "element_too_large",
        _bytes(
            lambda data: (
                data[: _meta_length(data)]
                + b"\x28\0\x51\x10"
                + struct.pack("<I", 16_000_000)
                + b"1\\" * 8_000_000
            ),
            syntax=uid.ImplicitVRLittleEndian,
        ),
    ),
    "RLE of 5 GB": (
        "undecodable",
        lambda path: _write(
            path,
            syntax=RLE,
            frame=struct.pack("<16I", 2, 64, 70, *[0] * 13) + b"\x81\0" * 40_000_000,
        ),
    ),
    "2 million fragments": (
        "too_many_elements",
        _with(syntax=JPEG, change=_wrapped(b"\xfe\xff\x00\xe0\0\0\0\0" * 2_000_000)),
    ),
    "a thousand shutters": (
        "constant_image",
        _with(
            stored=np.full((3000, 3000), 9, np.uint16),
            ShutterShape=["POLYGONAL"] * 1000,
            VerticesOfThePolygonalShutter=[1, 1, 1, 3000, 3000, 3000, 3000, 1],
        ),
    ),
    "truncated JPEG-LS of 9 megapixels": (
        "codestream_cut",
        _with(
            syntax=JPEG_LS,
            stored=np.zeros((3000, 3000), np.uint16),
            frame=encode_frame(np.zeros((3000, 3000), np.uint16), JPEG_LS)[:-9],
        ),
    ),
    "40 megapixels of nothing": (
        "constant_image",
        _with(stored=np.zeros((6000, 6600), np.uint16), syntax=DEFLATED),
    ),
    "sparse file of a terabyte": ("file_too_large", lambda path: _sparse(path, 1 << 40)),
}


def _sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)


READ = """
    import re, sys, time, warnings
    from pathlib import Path
    warnings.simplefilter("ignore")
    from femur_jax.ingest.dicom import read_dicom
    from femur_jax.ingest.rejection import RejectedFileError

    def peak():  # getrusage would report the peak of the parent process as well
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

    before = peak()
    for path in sys.argv[1:]:
        start = time.process_time()
        try:
            read_dicom(Path(path), lambda kind, name: "")
            code = "read"
        except RejectedFileError as error:
            code = error.code
        print(code, time.process_time() - start, peak() - before)
"""


def test_exploding_files_are_refused_in_little_memory_and_time(tmp_path):
    paths = [tmp_path / name for name in BOMBS]
    for (_, make), path in zip(BOMBS.values(), paths, strict=True):
        make(path)
    lines = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ), *map(str, paths)],
        capture_output=True,
        check=True,
        text=True,
        cwd=Path(__file__).parents[2],
    ).stdout.splitlines()
    for name, line in zip(BOMBS, lines, strict=True):
        code, seconds, megabytes = line.split()
        assert code == BOMBS[name][0], name
        assert float(seconds) < 5, name
        assert int(megabytes) < 500, name  # peak over all files so far


def test_the_guide_lists_every_code():
    guide = (Path(__file__).parents[2] / "docs" / "quarantine.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", guide, re.MULTILINE)
    assert {code: tuple(reason) for code, *reason in rows} == REASONS
    verdicts = guide[guide.index("## Accepted") : guide.index("## Codes")]
    refused = re.findall(r"^\|.*refused.*\|([^|]*)\|$", verdicts, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", "".join(refused))) == set(REASONS)


def test_each_code_has_a_sentence_for_the_hospital():
    """It names the file's fault in the hospital's words, and nothing of this project."""
    for code, reason in REASONS.items():
        assert re.fullmatch(r"Please [^.]+(?:\.\w[^.]*)*\.", reason.request), code
        assert not re.search("femur_jax|quarantine|worker|ingest", reason.request), code
