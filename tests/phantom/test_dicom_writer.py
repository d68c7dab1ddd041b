"""Tests of the DICOM files with other decoders, viewers and validators."""

import shutil
import subprocess
from dataclasses import replace

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import get_frame

from femur_jax.phantom.dicom_writer import Acquisition, draw_identity, to_stored, write_radiograph
from femur_jax.phantom.encoding import NEAR
from femur_jax.phantom.hospital import (
    COMMON_SYNTAXES,
    LOSSY_SYNTAXES,
    RARE_SYNTAXES,
    draw_hospitals,
    long_sides,
)
from femur_jax.phantom.outline import draw_outline

PLUGINS = {
    uid.JPEGLossless: ["gdcm"],
    uid.JPEGLosslessSV1: ["gdcm"],
    uid.JPEGLSLossless: ["pyjpegls", "gdcm"],
    uid.JPEGLSNearLossless: ["pyjpegls", "gdcm"],
    uid.JPEG2000: ["pylibjpeg"],
    uid.JPEG2000Lossless: ["pylibjpeg", "gdcm"],
    uid.RLELossless: ["pylibjpeg", "pydicom"],
    uid.JPEGBaseline8Bit: ["pillow"],
    uid.JPEGExtended12Bit: ["imagecodecs"],  # pydicom's only decoder for it is not installed
}
"""Decoders that must agree. They differ from the encoder of the files if there is another one."""

IDENTITY = draw_identity(np.random.default_rng(0), "test")
OUTLINES = ("RECTANGULAR", "CIRCULAR", "POLYGONAL")


def hospital_with(**changes):
    plain = {"signed": False, "outline": "none", "spacing": "detector", "rescale": (1.0, 0.0)}
    return replace(draw_hospitals(0, 1, (64, 64))[0], **plain | changes)


def acquisition(**changes):
    plain = {"instance": 1, "view": "AP", "laterality": "L", "spacing": 0.2, "magnification": 1.15}
    return Acquisition(**plain | changes)


def write(path, hospital, image, **changes):
    write_radiograph(path, image, hospital, IDENTITY, acquisition(**changes))
    return pydicom.dcmread(path)


def bits_of(syntax):
    fixed = {uid.JPEGBaseline8Bit: [8], uid.JPEGExtended12Bit: [12]}
    return fixed.get(syntax, [8, 10, 16])


@pytest.mark.parametrize("syntax", [*COMMON_SYNTAXES, *RARE_SYNTAXES], ids=lambda s: s.name)
def test_every_transfer_syntax_decodes(syntax, tmp_path):
    """Lossless syntaxes decode exactly, and lossy ones within their promised error."""
    image = np.random.default_rng(0).random((61, 27))  # narrow, odd sides, like collimated images
    image[10:50, 5:20] = 0.5 + 0.2 * np.sin(np.arange(40) / 9)[:, None]
    for bits in bits_of(syntax):
        hospital = hospital_with(transfer_syntax=syntax, bits=bits, range=(0.0, 1.0), voi="none")
        ds = write(tmp_path / "a.dcm", hospital, image)
        assert (ds.file_meta.TransferSyntaxUID, ds.BitsStored) == (syntax, bits)
        assert (ds.LossyImageCompression == "01") == (syntax in LOSSY_SYNTAXES)
        stored = to_stored(hospital, image).astype(int)
        assert stored.max() > 2 ** (bits - 1)
        for plugin in PLUGINS.get(syntax, [""]):
            if plugin == "imagecodecs":
                pixels = imagecodecs.jpeg8_decode(get_frame(ds.PixelData, 0))
            else:
                ds.pixel_array_options(decoding_plugin=plugin)
                pixels = ds.pixel_array
            error = np.abs(pixels.astype(int) - stored)
            if syntax == uid.JPEGLSNearLossless:
                assert 0 < error.max() <= NEAR
            elif syntax in LOSSY_SYNTAXES:
                assert 0 < error.mean() < 0.02 * 2**bits
            else:
                assert not error.any(), (plugin, bits)


@pytest.mark.parametrize("syntax", COMMON_SYNTAXES[::4] + RARE_SYNTAXES[4:5])
@pytest.mark.parametrize("bits", [8, 12])
def test_signed_values_decode_exactly(syntax, bits, tmp_path):
    image = np.random.default_rng(0).random((61, 27))
    hospital = hospital_with(
        transfer_syntax=syntax, bits=bits, signed=True, voi="none", modality="CR"
    )
    ds = write(tmp_path / "a.dcm", hospital, image)
    assert ds.PixelRepresentation == 1
    expected = to_stored(replace(hospital, signed=False), image).astype(int) - 2 ** (bits - 1)
    np.testing.assert_array_equal(ds.pixel_array, expected)


def test_lossless_jpeg_uses_the_predictor_of_its_syntax(tmp_path):
    """In ITU-T T.81 B.2.2 and B.2.3, SOF3 is process 14 and Ss in the scan header the predictor."""
    for syntax, selection in ((uid.JPEGLosslessSV1, [1]), (uid.JPEGLossless, range(2, 8))):
        hospital = hospital_with(transfer_syntax=syntax, bits=14)
        frame = get_frame(write(tmp_path / "a.dcm", hospital, np.eye(40)).PixelData, 0)
        start, scan = frame.index(b"\xff\xc3"), frame.index(b"\xff\xda")
        assert frame[start + 4] == 14
        assert frame[scan + 7] in selection


def test_extended_jpeg_is_of_12_bits(tmp_path):
    """The frame header is SOF1 with precision 12 (ITU-T T.81 B.2.2)."""
    hospital = hospital_with(transfer_syntax=uid.JPEGExtended12Bit, bits=12)
    frame = get_frame(write(tmp_path / "a.dcm", hospital, np.eye(40)).PixelData, 0)
    assert frame[frame.index(b"\xff\xc1") + 4] == 12


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("voi", "rescale"),
    [
        ("window", (1.0, 0.0)),
        ("window", (0.5, -64.0)),
        ("windows", (1.0, 0.0)),
        ("sigmoid", (1.0, 0.0)),
        ("lut", (1.0, 0.0)),
    ],
)
def test_display_pipeline_gives_the_image_back(
    displayed, photometric, signed, voi, rescale, tmp_path
):
    image = np.linspace(0, 1, 64 * 32).reshape(64, 32)
    hospital = hospital_with(
        transfer_syntax=uid.ExplicitVRBigEndian if signed else uid.ExplicitVRLittleEndian,
        photometric=photometric,
        voi=voi,
        rescale=rescale,
        bits=12,
        signed=signed,
        range=(0.05, 0.8),
        modality="CR",
    )
    ds = write(tmp_path / "a.dcm", hospital, image)
    np.testing.assert_allclose(displayed(ds), image, atol=6e-3 if voi == "sigmoid" else 2e-3)


@pytest.mark.parametrize("kind", OUTLINES)
def test_shutter_covers_the_region_that_its_attributes_describe(displayed, kind, tmp_path):
    """Evaluates PS3.3 C.7.6.11 point by point, except for pixels on the edge."""
    shape = (120, 70)
    outline = draw_outline(np.random.default_rng(1), kind, shape)
    image = np.full(shape, 0.25)
    ds = write(tmp_path / "a.dcm", hospital_with(voi="window", bits=12), image, outline=outline)
    row, column = np.mgrid[1:121, 1:71].astype(float)
    if kind == "RECTANGULAR":
        depth = np.minimum.reduce(
            [
                row - ds.ShutterUpperHorizontalEdge,
                ds.ShutterLowerHorizontalEdge - row,
                column - ds.ShutterLeftVerticalEdge,
                ds.ShutterRightVerticalEdge - column,
            ]
        )
    elif kind == "CIRCULAR":
        y, x = ds.CenterOfCircularShutter
        depth = ds.RadiusOfCircularShutter - np.hypot(row - y, column - x)
    else:
        corners = np.array(ds.VerticesOfThePolygonalShutter, float).reshape(-1, 2)
        sides = []
        for (y, x), (v, u) in zip(corners, np.roll(corners, -1, 0), strict=True):
            across = (u - x) * (row - y) - (v - y) * (column - x)
            sides.append(across / np.hypot(u - x, v - y))
        depth = np.minimum.reduce(sides)
    shown = displayed(ds)
    assert ds.ShutterShape == kind
    assert (depth < -1).sum() > 50 and (depth > 1).mean() > 0.6
    np.testing.assert_allclose(shown[depth > 1], 0.25, atol=2e-3)
    np.testing.assert_allclose(shown[depth < -1], 1.0, atol=2e-3)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
def test_padding_has_a_unique_value_and_is_shown_black(displayed, photometric, signed, tmp_path):
    shape = (90, 50)
    outline = draw_outline(np.random.default_rng(1), "PADDING", shape)
    image = np.random.default_rng(0).random(shape)
    hospital = hospital_with(
        photometric=photometric, voi="window", bits=12, signed=signed, range=(0.1, 0.8)
    )
    hospital = replace(hospital, modality="CR", transfer_syntax=uid.ImplicitVRLittleEndian)
    ds = write(tmp_path / "a.dcm", hospital, image, outline=outline)
    np.testing.assert_array_equal(ds.pixel_array == ds.PixelPaddingValue, ~outline.inside)
    assert 0.02 < (~outline.inside).mean() < 0.3
    np.testing.assert_allclose(displayed(ds)[~outline.inside], 0.0, atol=1e-6)


def test_spacing_attributes_state_their_source(tmp_path):
    for spacing in ("detector", "calibrated", "zero", "none"):
        ds = write(tmp_path / "a.dcm", hospital_with(spacing=spacing, modality="CR"), np.eye(40))
        imager = [0.2, 0.2] if spacing in ("detector", "calibrated") else None
        patient = {"calibrated": [0.2 / 1.15] * 2, "zero": [0.0, 0.0]}.get(spacing)
        assert ds.get("ImagerPixelSpacing") == imager
        if patient is None:
            assert "PixelSpacing" not in ds
        else:
            np.testing.assert_allclose(ds.PixelSpacing, patient, rtol=1e-6)


def test_unprocessed_and_processed_image_refer_to_one_exposure(tmp_path):
    """Both have one irradiation event (PS3.3 C.7.6.1); one is the source image (C.12.4)."""
    hospital = hospital_with(modality="DX", voi="window")
    raw = write(tmp_path / "raw.dcm", hospital, np.eye(40), copy="raw", processed=False)
    shown = write(tmp_path / "shown.dcm", hospital, np.eye(40), source="raw")
    reference = shown.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == raw.SOPInstanceUID != shown.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == raw.SOPClassUID != shown.SOPClassUID
    assert raw.IrradiationEventUID == shown.IrradiationEventUID
    assert raw.PresentationIntentType == "FOR PROCESSING" and "WindowCenter" not in raw
    assert raw.StudyInstanceUID == shown.StudyInstanceUID


@pytest.fixture(scope="module")
def seventy_two():
    return draw_hospitals(0, 72, long_sides((1.0, 15.0)))


def test_areas_lie_within_the_stated_megapixels(seventy_two):
    least = min(h.long_side**2 * h.aspect[0] for h in seventy_two)
    greatest = max(h.long_side**2 * h.aspect[1] for h in seventy_two)
    assert 1.0e6 <= least < 1.1e6 and 14e6 < greatest <= 15.0e6


def test_hospitals_respect_the_limits_of_their_formats(seventy_two):
    assert {h.transfer_syntax for h in seventy_two} == {*COMMON_SYNTAXES, *RARE_SYNTAXES}
    for h in seventy_two:
        if h.modality == "DX":  # PS3.3 C.8.11.3
            assert h.voi != "none" and not h.signed and h.rescale == (1.0, 0.0)
            assert h.spacing in ("detector", "calibrated")
        assert h.bits in bits_of(h.transfer_syntax) or h.bits in range(10, 17)
        assert not (h.signed and uid.UID(h.transfer_syntax).is_encapsulated)
    for name in ("voi", "spacing", "outline", "photometric", "border", "bits", "signed", "device"):
        assert len({getattr(h, name) for h in seventy_two}) > 1, name
    common = sum(h.transfer_syntax in COMMON_SYNTAXES for h in seventy_two)
    assert common > 0.75 * 72


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="the validator dciodvfy is not installed")
@pytest.mark.parametrize("modality", ["DX", "CR"])
def test_files_conform_to_the_standard(modality, tmp_path):
    """The only error is (0008,001c) Synthetic Data, which is too new for dciodvfy."""
    image = np.random.default_rng(0).random((61, 33))
    digital = modality == "DX"
    plain = hospital_with(modality=modality, bits=12, voi="window", transfer_syntax=uid.RLELossless)
    cases = {}
    for syntax in (*COMMON_SYNTAXES, *RARE_SYNTAXES):
        if syntax != uid.DeflatedExplicitVRLittleEndian:  # dciodvfy does not read it
            bits = bits_of(syntax)[-1]
            cases[syntax.name] = replace(plain, transfer_syntax=syntax, bits=bits), {}
    for voi in ("windows", "sigmoid", "lut", *(() if digital else ("none",))):
        cases[voi] = replace(plain, voi=voi), {}
    for spacing in ("calibrated", *(() if digital else ("none",))):
        cases[spacing] = replace(plain, spacing=spacing), {}
    for kind in (*OUTLINES, "PADDING"):
        cases[kind] = plain, {"outline": draw_outline(np.random.default_rng(0), kind, (61, 33))}
    cases["burned in"] = plain, {"burned_in": True}
    cases["lateral"] = plain, {"view": "lateral"}
    if digital:
        cases["processed"] = plain, {"source": "raw"}
        cases["unprocessed"] = plain, {"copy": "raw", "processed": False}
    else:
        cases["signed"] = replace(plain, signed=True, voi="lut"), {}
    for name, (hospital, changes) in cases.items():
        write(tmp_path / "a.dcm", hospital, image, **changes)
        command = ["dciodvfy", "-new", str(tmp_path / "a.dcm")]
        result = subprocess.run(command, capture_output=True, text=True)
        lines = (result.stdout + result.stderr).splitlines()
        assert any("(0008,001c)" in line for line in lines)
        assert not [
            line for line in lines if line.startswith("Error") and "(0008,001c)" not in line
        ], name
