import numpy as np
import pytest
import scipy.ndimage
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from femur_jax.data.dicom import MAX_PIXELS, read_dicom, window
from femur_jax.data.rejection import RejectedFileError

LOSSLESS = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "RLE": uid.RLELossless,
    "JPEG lossless": uid.JPEGLossless,
    "JPEG lossless SV1": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
}
LOSSY = {
    "JPEG-LS near": (uid.JPEGLSNearLossless, 12, 2),
    "JPEG 2000 lossy": (uid.JPEG2000, 12, 30),
    "JPEG baseline": (uid.JPEGBaseline8Bit, 8, 4),
    "JPEG extended": (uid.JPEGExtended12Bit, 12, 60),
}


def _stored(bits=12, signed=False, shape=(33, 47), seed=0):
    """A smooth noisy picture that uses the whole range of stored values."""
    rng = np.random.default_rng(seed)
    picture = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 3)
    picture += 0.02 * picture.std() * rng.normal(size=shape)
    top = (1 << bits) - 1
    values = np.round((picture - picture.min()) / np.ptp(picture) * top).astype(np.int64)
    if signed:
        values -= 1 << (bits - 1)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def _stretched(stored):
    """Full range to 0..65535, in float64."""
    values = stored.astype(np.float64)
    return 65535 * (values - values.min()) / np.ptp(values)


def _assert_close(grey, expected):
    assert grey.dtype == np.uint16
    # Half a grey level for rounding and a little for float32.
    np.testing.assert_allclose(grey, np.clip(expected, 0, 65535), atol=0.51, rtol=0)


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_every_lossless_syntax(dicom_file, tmp_path, name, bits, signed):
    stored = _stored(bits, signed)
    grey, _, _ = read_dicom(dicom_file(tmp_path / "f", stored, syntax=LOSSLESS[name], bits=bits))
    _assert_close(grey, _stretched(stored))


@pytest.mark.parametrize("name", LOSSY)
def test_every_lossy_syntax(dicom_file, tmp_path, name):
    syntax, bits, tolerance = LOSSY[name]
    stored = _stored(bits)
    # A window that leaves stored values as they are, scaled.
    grey, _, _ = read_dicom(
        dicom_file(
            tmp_path / "f",
            stored,
            syntax=syntax,
            bits=bits,
            WindowCenter=0,
            WindowWidth=1 << 17,
            VOILUTFunction="LINEAR_EXACT",
        )
    )
    again = (grey / 65535 - 0.5) * (1 << 17)
    assert abs(again - stored).max() <= tolerance + 1


def test_eight_bits_in_sixteen_and_signs_cut_to_the_bits_stored(dicom_file, tmp_path):
    wide = _stored(8).astype(np.uint16)
    grey, _, _ = read_dicom(dicom_file(tmp_path / "wide", wide, bits=8))
    _assert_close(grey, _stretched(wide))
    signed = _stored(12, signed=True)
    cut = (signed.view(np.uint16) & 0xFFF).tobytes()  # four unused bits without the sign
    grey, _, _ = read_dicom(dicom_file(tmp_path / "cut", signed, frame=cut))
    _assert_close(grey, _stretched(signed))


def _window_as_in_the_standard(x, center, width, function):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, pixel by pixel, from 0 to 1."""
    if function == "SIGMOID":
        return 0.5 + 0.5 * np.tanh(2 * (x - center) / width)
    if function == "LINEAR":
        if x <= center - 0.5 - (width - 1) / 2:
            return 0.0
        if x > center - 0.5 + (width - 1) / 2:
            return 1.0
        return (x - (center - 0.5)) / (width - 1) + 0.5
    if x <= center - width / 2:
        return 0.0
    if x > center + width / 2:
        return 1.0
    return (x - center) / width + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000.0, 1500.0), (100.5, 1.0), (9e3, 50.0)])
def test_windows(function, center, width):
    values = np.array([[-1e4, 0, 99, 100, 101, 1250, 2000, 2750, 4095, 6e4]])
    expected = [[_window_as_in_the_standard(x, center, width, function) for x in values[0]]]
    shown = window(values.astype(np.float32), center, width, function)
    np.testing.assert_allclose(shown, expected, atol=2e-6)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_in_files(dicom_file, tmp_path, function):
    stored = _stored()
    elements = {"VOILUTFunction": function} if function else {}
    path = dicom_file(
        tmp_path / "f",
        stored,
        WindowCenter=["1800", "1"],
        WindowWidth=["900", "2"],
        RescaleSlope="0.5",
        RescaleIntercept="-100",
        **elements,
    )
    expected = [
        [_window_as_in_the_standard(0.5 * x - 100, 1800, 900, function or "LINEAR") for x in row]
        for row in stored.astype(np.float64)
    ]
    _assert_close(read_dicom(path)[0], 65535 * np.array(expected))


def test_agrees_with_the_peer_library(dicom_file, tmp_path):
    path = dicom_file(tmp_path / "f", _stored(), WindowCenter=2100, WindowWidth=1700)
    dataset = dcmread(path)
    peer = apply_voi_lut(dataset.pixel_array, dataset)  # from 0 to 4095
    _assert_close(read_dicom(path)[0], peer / 4095 * 65535)


def _lut(keyword, entries, first, bits):
    def change(dataset):
        item = Dataset()
        item.LUTDescriptor = [len(entries) % 65536, first, bits]
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        size = 1 if bits == 8 else 2
        item.add_new("LUTData", "OW", np.asarray(entries).astype(f"{order}u{size}").tobytes())
        setattr(dataset, keyword, [item])

    return change


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian"])
@pytest.mark.parametrize(("bits", "count", "first"), [(16, 4096, 0), (12, 1000, 700), (8, 3000, 9)])
def test_voi_luts(dicom_file, tmp_path, syntax, bits, count, first):
    stored = _stored()
    table = np.round(np.linspace(0, 1, count) ** 2 * ((1 << bits) - 1))
    path = dicom_file(
        tmp_path / "f",
        stored,
        syntax=LOSSLESS[syntax],
        change=_lut("VOILUTSequence", table, first, bits),
        WindowCenter=1,
        WindowWidth=2,
    )
    shown = [[table[min(max(int(x) - first, 0), count - 1)] for x in row] for row in stored]
    _assert_close(read_dicom(path)[0], np.array(shown) / ((1 << bits) - 1) * 65535)


def test_a_full_lut_of_65536_entries(dicom_file, tmp_path):
    stored, table = _stored(16), np.arange(65536)[::-1]
    path = dicom_file(tmp_path / "f", stored, bits=16, change=_lut("VOILUTSequence", table, 0, 16))
    _assert_close(read_dicom(path)[0], 65535 - stored.astype(np.float64))


def test_modality_luts(dicom_file, tmp_path):
    stored = _stored()
    table = np.round(65535 * np.sqrt(np.linspace(0, 1, 4096)))
    path = dicom_file(tmp_path / "f", stored, change=_lut("ModalityLUTSequence", table, 0, 16))
    _assert_close(read_dicom(path)[0], _stretched(table[stored]))


@pytest.mark.parametrize(
    ("photometric", "shape", "inverse"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "IDENTITY", False),
    ],
)
@pytest.mark.parametrize("windowed", [False, True])
def test_one_inversion(dicom_file, tmp_path, photometric, shape, inverse, windowed):
    stored = _stored()
    elements = {"PresentationLUTShape": shape} if shape else {}
    if windowed:
        elements |= {"WindowCenter": 2048, "WindowWidth": 4096}
    path = dicom_file(tmp_path / "f", stored, PhotometricInterpretation=photometric, **elements)
    expected = stored / 4095 * 65535
    _assert_close(read_dicom(path)[0], 65535 - expected if inverse else expected)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, (0.0, "unknown")),
        ({"ImagerPixelSpacing": [0.14, 0.14]}, (0.14, "detector")),
        ({"ImagerPixelSpacing": [0.14, 0.14], "PixelSpacing": [0.14, 0.14]}, (0.14, "detector")),
        ({"ImagerPixelSpacing": [0.14, 0.14], "PixelSpacing": [0.12, 0.12]}, (0.12, "calibrated")),
        (
            {
                "ImagerPixelSpacing": [0.14, 0.14],
                "PixelSpacing": [0.14, 0.14],
                "PixelSpacingCalibrationType": "FIDUCIAL",
            },
            (0.14, "calibrated"),
        ),
        (
            {"PixelSpacing": [0.1, 0.1], "PixelSpacingCalibrationType": "GEOMETRY"},
            (0.1, "calibrated"),
        ),
        ({"PixelSpacing": [0.2, 0.2]}, (0.2, "unknown")),
        ({"PixelSpacing": ["0.000", "0.000"], "ImagerPixelSpacing": [0.1, 0.1]}, (0.1, "detector")),
        ({"PixelSpacing": [-1, -1]}, (0.0, "unknown")),
        ({"PixelSpacing": 0.2}, (0.0, "unknown")),
    ],
)
def test_spacing_and_where_it_is_known_from(dicom_file, tmp_path, elements, expected):
    assert read_dicom(dicom_file(tmp_path / "f", _stored(), **elements))[1:] == expected


JPEG = uid.JPEGLosslessSV1


@pytest.mark.parametrize(
    ("code", "elements"),
    [
        ("no_pixels", {"PixelData": None}),
        ("no_size", {"Rows": 0}),
        ("no_size", {"Columns": None}),
        ("too_large", {"Rows": 65535, "Columns": 65535}),
        ("frames", {"NumberOfFrames": 1_000_000}),
        ("not_grey", {"PhotometricInterpretation": "RGB"}),
        ("not_grey", {"SamplesPerPixel": 3}),
        ("bits", {"BitsAllocated": 32}),
        ("bits", {"BitsStored": 17}),
        ("bits", {"HighBit": 15}),
        ("bits", {"BitsStored": 11, "HighBit": 10, "syntax": JPEG}),
        ("oblong_pixels", {"PixelSpacing": [0.1, 0.12]}),
        ("undecodable", {"Rows": 40}),
        ("window", {"WindowWidth": 0, "WindowCenter": 5}),
        ("window", {"WindowWidth": 0.5, "WindowCenter": 5}),
        ("window", {"WindowWidth": 100}),
        ("window", {"WindowWidth": 9, "WindowCenter": 5, "VOILUTFunction": "CUBIC"}),
        ("constant_image", {"WindowWidth": 9, "WindowCenter": 9999}),
        ("transfer_syntax", {"syntax": uid.DeflatedExplicitVRLittleEndian}),
        ("transfer_syntax", {"syntax": uid.HTJ2KLossless, "frame": b"\xff\xd9"}),
        ("undecodable", {"syntax": JPEG, "frame": b"no codestream\xff\xd9"}),
        ("undecodable", {"syntax": uid.RLELossless, "frame": b"\1" + bytes(99)}),
        ("undecodable", {"syntax": uid.RLELossless, "Rows": 31}),
        *(
            ("size_differs", {"syntax": LOSSLESS[name], **wrong})
            for name in ("JPEG lossless SV1", "JPEG-LS", "JPEG 2000")
            for wrong in ({"Rows": 32}, {"Rows": 34}, {"Columns": 33, "Rows": 47})
        ),
    ],
)
def test_rejections(dicom_file, tmp_path, code, elements):
    with pytest.raises(RejectedFileError) as error:
        read_dicom(dicom_file(tmp_path / "f", _stored(), **elements))
    assert error.value.code == code
    assert error.value.hint.endswith(".")


@pytest.mark.parametrize("name", ["JPEG lossless SV1", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize("padding", [b"", b"\0", b"\xff\xff"])
def test_codestreams_cut_short(dicom_file, tmp_path, name, padding):
    path = dicom_file(tmp_path / "whole", _stored(), syntax=LOSSLESS[name])
    whole = get_frame(dcmread(path).PixelData, 0, number_of_frames=1).rstrip(b"\0")
    assert whole.endswith(b"\xff\xd9")
    options = {"syntax": LOSSLESS[name]}
    padded = dicom_file(tmp_path / "padded", _stored(), frame=whole + padding, **options)
    assert read_dicom(padded)[0].shape == (33, 47)
    for length in (len(whole) // 3, len(whole) - 2):
        cut = dicom_file(tmp_path / "cut", _stored(), frame=whole[:length] + padding, **options)
        with pytest.raises(RejectedFileError) as error:
            read_dicom(cut)
        assert error.value.code == "cut_short"


def test_too_large_leaves_room_for_the_largest_detectors():
    assert MAX_PIXELS > 2 * 15e6


def test_constant_images_are_rejected(dicom_file, tmp_path):
    with pytest.raises(RejectedFileError) as error:
        read_dicom(dicom_file(tmp_path / "f", np.full((9, 9), 7, np.uint16)))
    assert error.value.code == "constant_image"


@pytest.mark.parametrize("text", [b"", b"path,label\n", b"\x89PNG\r\n\x1a\n" + bytes(300)])
def test_other_files_are_no_dicom(tmp_path, text):
    (tmp_path / "f").write_bytes(text)
    with pytest.raises(RejectedFileError) as error:
        read_dicom(tmp_path / "f")
    assert error.value.code == "not_dicom"


def test_a_bomb_is_not_unpacked(dicom_file, tmp_path, monkeypatch):
    path = dicom_file(
        tmp_path / "f", np.zeros((4000, 4000), np.uint16), syntax=uid.DeflatedExplicitVRLittleEndian
    )
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("zlib.decompress", None)
    monkeypatch.setattr("zlib.decompressobj", None)
    with pytest.raises(RejectedFileError) as error:
        read_dicom(path)
    assert error.value.code == "transfer_syntax"


def test_rejections_say_nothing_of_the_header(dicom_file, tmp_path):
    path = dicom_file(
        tmp_path / "f", _stored(), syntax=JPEG, frame=b"CANARY\xff\xd9", PatientName="CANARY^Anna"
    )
    with pytest.raises(RejectedFileError) as error:
        read_dicom(path)
    assert "CANARY" not in repr(error.value)
    assert error.value.__suppress_context__


REAL = {
    "MR_small_bigendian": None,
    "MR_truncated": "undecodable",
    "RG1_J2KI": None,
    "RG2_JLSL": None,
    "RG2_JLSN": None,
    "RG2_JPLL": None,
    "RG2_JPLY": None,
    "RG2_JPLY_fixed": None,
    "bad_sequence": None,
    "emri_small_jpeg_2k_lossless_too_short": "no_pixels",
    "image_dfl": "transfer_syntax",
    "meta_missing_tsyntax": "transfer_syntax",
    "mlut_18": None,
    "no_meta": "not_dicom",
    "vlut_04": None,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REAL)
def test_real_files(real_radiographs, name):
    path = real_radiographs / "dicom" / f"{name}.dcm"
    if REAL[name] is None:
        grey, _, _ = read_dicom(path)
        assert grey.shape == (dcmread(path).Rows, dcmread(path).Columns)
    else:
        with pytest.raises(RejectedFileError) as error:
            read_dicom(path)
        assert error.value.code == REAL[name]


def test_real_codecs_agree(real_radiographs):
    """One picture, as four transfer syntaxes by other people's encoders."""
    folder = real_radiographs / "dicom"
    exact, spacing, source = read_dicom(folder / "RG2_JPLL.dcm")
    assert (spacing, source) == (0.2, "unknown")
    np.testing.assert_array_equal(read_dicom(folder / "RG2_JLSL.dcm")[0], exact)
    for lossy, step in (("RG2_JLSN", 10 / 1023), ("RG2_JPLY_fixed", 60 / 1023)):
        other = read_dicom(folder / f"{lossy}.dcm")[0]
        difference = abs(other.astype(float) - exact) / 65535
        assert 0 < difference.mean() < 0.005
        assert np.quantile(difference, 0.999) < step


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vlut_04", "mlut_18", "RG1_J2KI"])
def test_real_grey_values_agree_with_the_peer_library(real_radiographs, name):
    path = real_radiographs / "dicom" / f"{name}.dcm"
    dataset = dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    if name == "vlut_04":
        expected = shown / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif name == "mlut_18":
        expected = (shown - shown.min()) / np.ptp(shown)
    else:
        assert dataset.PhotometricInterpretation == "MONOCHROME1"
        expected = 1 - shown / 32767  # 15 bits
    _assert_close(read_dicom(path)[0], expected * 65535)
