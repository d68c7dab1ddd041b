import io
import shutil
import subprocess

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.pixels.encoders import RLELosslessEncoder

from femur_jax.ingest import codestream
from femur_jax.ingest.codestream import Frame, lossless_bits_fit, read_frame, rle_segments
from femur_jax.ingest.dicom import read_dicom
from femur_jax.ingest.rejection import RejectedFileError
from tests.ingest.conftest import same, smooth_values, write_dicom

PICTURE = smooth_values(12, shape=(40, 30))
BYTES = smooth_values(8, shape=(40, 30))


def _saved(kind, **options):
    """The file that Pillow writes of BYTES."""
    file = io.BytesIO()
    Image.fromarray(BYTES).save(file, kind, **options)
    return file.getvalue()


CODES = {
    "baseline": (imagecodecs.jpeg8_encode(BYTES, level=90), Frame(40, 30, 8, 1, 0xC0)),
    "extended": (
        imagecodecs.jpeg8_encode(PICTURE, level=90, bitspersample=12),
        Frame(40, 30, 12, 1, 0xC1),
    ),
    "lossless": (
        imagecodecs.jpeg8_encode(PICTURE, lossless=True, predictor=6, bitspersample=12),
        Frame(40, 30, 12, 1, 0xC3, 6),
    ),
    "JPEG-LS": (imagecodecs.jpegls_encode(PICTURE), Frame(40, 30, 16, 1, 0xF7, 0)),
    "near": (imagecodecs.jpegls_encode(PICTURE, level=2), Frame(40, 30, 16, 1, 0xF7, 2)),
    "JPEG 2000": (
        imagecodecs.jpeg2k_encode(
            PICTURE, codecformat="j2k", reversible=True, level=0, bitspersample=12, resolutions=3
        ),
        Frame(40, 30, 12, 1, 0x51),
    ),
    "JPEG 2000 in tiles": (
        _saved("JPEG2000", tile_size=(16, 16), no_jp2=True),
        Frame(40, 30, 8, 1, 0x51),
    ),
}
CODES = {name: (bytes(code), frame) for name, (code, frame) in CODES.items()}


def _code(code):
    with pytest.raises(RejectedFileError) as error:
        read_frame(code)
    return error.value.code


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize(
    "padding", [b"", b"\0", b"\xff\xff", b"\xff\0", b"\x20", b"\xcc", b"\0\x20\0"]
)
def test_reads_what_was_encoded(name, padding):
    code, frame = CODES[name]
    assert read_frame(code + padding) == frame


@pytest.mark.parametrize("name", CODES)
def test_every_cut_is_seen(name):
    code, _ = CODES[name]
    assert code.endswith(b"\xff\xd9")
    for length in range(len(code)):
        assert _code(code[:length]) in ("codestream", "codestream_cut")
        assert _code(code[:length] + bytes(20)) in ("codestream", "codestream_cut")


@pytest.mark.parametrize("name", CODES)
def test_more_behind_the_end_is_seen(name):
    code, _ = CODES[name]
    assert _code(code + b"\1\2") == _code(code + code) == "codestream"


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xda", b"\xff\xc4"])
def test_a_marker_within_the_data_is_seen(name, marker):
    code, _ = CODES[name]
    start = len(code) - 60
    assert _code(code[:start] + marker + code[start + 2 :]) == "codestream"


@pytest.mark.parametrize("name", ["baseline", "JPEG-LS"])
def test_restarts_fill_bytes_and_comments_are_no_damage(name):
    code, frame = CODES[name]
    comment = b"\xff\xff\xff\xfe" + (4).to_bytes(2, "big") + b"ok"
    assert read_frame(code[:2] + comment + code[2:]) == frame
    scan = code.index(b"\xff\xda") + 10
    assert read_frame(code[: scan + 6] + b"\xff\xd0" + code[scan + 6 :]) == frame


def test_the_restarts_of_a_peer_are_no_damage():
    code = _saved("JPEG", restart_marker_blocks=3)
    assert b"\xff\xd1" in code
    assert read_frame(code) == Frame(40, 30, 8, 1, 0xC0)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("baseline", b"\0\x3f\0\x00", b"\0\x3f\x01"),  # approximated: a progressive scan
        ("lossless", b"\xff\xc3", b"\xff\xc4"),  # the frame header disappears
        ("JPEG-LS", b"\xff\xf7", b"\0\xf7"),
    ],
)
def test_damaged_markers_are_seen(name, old, new):
    code, _ = CODES[name]
    start = code.index(old) if old in code else code.index(old[:-1])
    assert _code(code[:start] + new + code[start + len(new) :]) == "codestream"


@pytest.mark.parametrize("code", [b"", b"\xff", b"no codestream\xff\xd9", b"\0" * 99])
def test_other_bytes_are_no_codestream(code):
    assert _code(code) == "codestream"


def test_markers_without_end_are_refused_soon():
    assert _code(b"\xff\xd8" + b"\xff" * 30_000_000) == "codestream_cut"
    assert _code(b"\xff\xd8" + b"\xff\xe0\0\2" * 8_000_000) == "codestream"
    start = CODES["JPEG 2000"][0][:51]
    assert _code(start + b"\xff\x64\0\2" * 8_000_000) == "codestream"
    header, _, _ = CODES["JPEG 2000"][0].partition(b"\xff\x90")
    tile_part = b"\xff\x90\0\x0a\0\0\0\0\0\x0e\0\1\xff\x93"
    assert _code(header + tile_part * 5_000_000 + b"\xff\xd9") == "codestream"


def _rle(pixels):
    return RLELosslessEncoder.encode(
        pixels.tobytes(),
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=12,
        pixel_representation=0,
        number_of_frames=1,
        photometric_interpretation="MONOCHROME2",
        encoding_plugin="pydicom",
    )


def test_rle_segments_are_the_bytes_of_the_pixels():
    segments = rle_segments(_rle(PICTURE), 2)
    for segment, plane in zip(segments, (PICTURE >> 8, PICTURE & 0xFF), strict=True):
        assert imagecodecs.packbits_decode(segment) == plane.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda code: code[:64], "codestream_cut"),
        (lambda code: b"\3" + code[1:], "codestream_bits"),
        (lambda code: b"\1" + code[1:], "codestream_bits"),
        (
            lambda code: code[:4] + b"\x41" + code[5:],
            "codestream",
        ),  # a first offset after the start
        (lambda code: code[:8] + code[4:8] + code[12:], "codestream"),  # two equal offsets
        (
            lambda code: code[:8] + b"\xff\xff\xff\x7f" + code[12:],
            "codestream",
        ),  # an offset beyond the end
        (lambda code: code[:60] + b"\1" + code[61:], "codestream"),  # a sixteenth segment
    ],
)
def test_rle_offsets_are_checked(change, code):
    with pytest.raises(RejectedFileError) as error:
        rle_segments(change(_rle(PICTURE)), 2)
    assert error.value.code == code


def test_processes_are_the_standards_markers():
    processes = (codestream.BASELINE, codestream.EXTENDED, codestream.LOSSLESS, codestream.JPEG_LS)
    assert processes == (0xC0, 0xC1, 0xC3, 0xF7)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_bits_of_lossless_jpeg_are_those_of_the_pixels(predictor):
    code = bytes(
        imagecodecs.jpeg8_encode(PICTURE, lossless=True, predictor=predictor, bitspersample=12)
    )
    assert lossless_bits_fit(code, PICTURE)
    assert not lossless_bits_fit(code, PICTURE // 2)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_bits_are_those_that_dcmtk_writes(tmp_path, predictor):
    program = shutil.which("dcmcjpeg")
    if program is None:
        pytest.skip("dcmtk is not installed")
    stored = smooth_values(16, signed=True, shape=(40, 30))
    plain, path = write_dicom(tmp_path / "plain", stored, bits=16), tmp_path / "f"
    options = ["--encode-lossless", "--selection-value", str(predictor)]
    subprocess.run([program, *options, plain, path], check=True)
    np.testing.assert_array_equal(read_dicom(path, same).pixels, read_dicom(plain, same).pixels)


@pytest.mark.parametrize("change", [lambda part: b"", lambda part: part + part])
def test_parts_of_lossless_jpeg_that_are_lost_or_repeated_are_seen(tmp_path, change):
    code = CODES["lossless"][0]
    damaged = code[:400] + change(code[400:500]) + code[500:]
    path = write_dicom(tmp_path / "f", PICTURE, syntax=uid.JPEGLossless, frame=damaged)
    with pytest.raises(RejectedFileError, match="codestream"):
        read_dicom(path, same)
