"""Grey values, compared with the standard's equations and with pydicom."""

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from femur_jax.ingest.dicom import read_dicom
from femur_jax.ingest.grey import counted, robust_range, stretch, window
from femur_jax.ingest.rejection import RejectedFileError
from tests.ingest.conftest import LOSSLESS, same, smooth_values

SYNTAXES = ["explicit", "implicit", "big-endian"]


def _stretched(stored):
    """Scales the full range to 0..65535 in float64."""
    values = stored.astype(np.float64)
    return 65535 * (values - values.min()) / np.ptp(values)


def _assert_close(picture, expected):
    assert picture.pixels.dtype == np.uint16
    # Rounding changes a value by at most half a grey level.
    np.testing.assert_allclose(picture.pixels, np.clip(expected, 0, 65535), atol=0.501, rtol=0)


def _read(path):
    return read_dicom(path, same)


def _window_as_in_the_standard(x, center, width, function):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 for one value, from 0 to 1."""
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
    values = np.array([-1e4, 0, 99, 100, 101, 1250, 2000, 2750, 4095, 6e4])
    expected = [_window_as_in_the_standard(x, center, width, function) for x in values]
    np.testing.assert_allclose(window(values, center, width, function), expected, atol=1e-12)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [False, True])
def test_the_first_of_several_windows_after_rescaling(dicom_file, tmp_path, function, signed):
    stored = smooth_values(signed=signed)
    path = dicom_file(
        tmp_path / "f",
        stored,
        WindowCenter=["800", "1"],
        WindowWidth=["900", "2"],
        RescaleSlope="0.5",
        RescaleIntercept="-100",
        **({"VOILUTFunction": function} if function else {}),
    )
    expected = [
        [_window_as_in_the_standard(0.5 * x - 100, 800, 900, function or "LINEAR") for x in row]
        for row in stored.astype(np.float64)
    ]
    picture = _read(path)
    _assert_close(picture, 65535 * np.array(expected))
    assert picture.source.voi == "window"


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("slope", ["1", "0.25", "-2"])
def test_agrees_with_the_peer_library(dicom_file, tmp_path, signed, slope):
    path = dicom_file(
        tmp_path / "f",
        smooth_values(signed=signed),
        WindowCenter=300,
        WindowWidth=1700,
        RescaleSlope=slope,
        RescaleIntercept="12",
    )
    dataset = dcmread(path)
    peer = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    # Its output range is that of the rescaled stored values, also for a negative slope.
    ends = [float(slope) * end + 12 for end in ((-2048, 2047) if signed else (0, 4095))]
    _assert_close(_read(path), (peer - ends[0]) / (ends[1] - ends[0]) * 65535)


def _lut(keyword, entries, first, bits):
    def change(dataset):
        item = Dataset()
        item.LUTDescriptor = [len(entries) % 65536, first, bits]
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        size = 1 if bits == 8 else 2
        data = np.asarray(entries).astype(f"{order}u{size}").tobytes()
        if size == 1 and order == ">":  # words with the first entry low
            data = np.frombuffer(data, "<u2").astype(">u2").tobytes()
        item.add_new("LUTData", "OW", data)
        setattr(dataset, keyword, [item])

    return change


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("bits", "count", "first"), [(16, 4096, 0), (12, 1000, 700), (8, 3000, 9)])
def test_voi_luts(dicom_file, tmp_path, syntax, bits, count, first):
    stored = smooth_values()
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
    picture = _read(path)
    _assert_close(picture, np.array(shown) / ((1 << bits) - 1) * 65535)
    assert picture.source.voi == "lut"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_luts_whose_first_value_is_negative(dicom_file, tmp_path, syntax):
    stored = smooth_values(signed=True)
    table = np.round(65535 * np.linspace(0, 1, 2000) ** 2)
    change = _lut("VOILUTSequence", table, -1000, 16)
    path = dicom_file(tmp_path / "f", stored, syntax=LOSSLESS[syntax], change=change)
    shown = [[table[min(max(int(x) + 1000, 0), 1999)] for x in row] for row in stored]
    _assert_close(_read(path), np.array(shown))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_signs_of_luts_in_every_coding(dicom_file, tmp_path, syntax, vr, undefined, keyword):
    """The first value may be coded US although it is negative; implicit VR codes no sign at all."""
    stored = smooth_values(signed=True)
    table = np.round(65535 * np.linspace(0.2, 1, 4096) ** 2)

    def change(dataset):
        item = Dataset()
        first = -2048 if vr == "SS" else 65536 - 2048
        item.add_new("LUTDescriptor", vr, [4096, first, 16])
        values = table if vr == "US" else table.astype(np.uint16).view(np.int16)
        item.add_new("LUTData", vr, values.astype(int).tolist())
        item.is_undefined_length_sequence_item = undefined
        setattr(dataset, keyword, [item])
        dataset[keyword].is_undefined_length = undefined

    path = dicom_file(tmp_path / "f", stored, syntax=LOSSLESS[syntax], change=change)
    shown = table[stored.astype(int) + 2048]
    _assert_close(_read(path), _stretched(shown) if keyword[0] == "M" else shown)


@pytest.mark.parametrize("short", [1, 1000, 2048, 2100])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_luts_of_other_lengths_are_refused(dicom_file, tmp_path, short, bits, keyword):
    table = np.zeros(4096 - short, np.uint16)

    def change(dataset):
        _lut(keyword, table, 0, 16)(dataset)
        dataset[keyword][0].LUTDescriptor = [4096, 0, bits]

    path = dicom_file(tmp_path / "f", smooth_values(), change=change)
    if bits == 8 and short == 2048:  # exactly the bytes that the descriptor states
        change = _lut(keyword, np.arange(4096) % 256, 0, 8)
        _read(dicom_file(tmp_path / "f", smooth_values(), change=change))
        return
    with pytest.raises(RejectedFileError, match="lookup_table"):
        _read(path)


def test_lut_entries_beyond_their_bits_are_refused(dicom_file, tmp_path):
    change = _lut("VOILUTSequence", np.arange(4096) * 16, 0, 12)
    with pytest.raises(RejectedFileError, match="lookup_table"):
        _read(dicom_file(tmp_path / "f", smooth_values(), change=change))


def test_descriptors_given_twice_must_agree(dicom_file, tmp_path):
    path = dicom_file(
        tmp_path / "f", smooth_values(), change=_lut("VOILUTSequence", np.arange(4096), 0, 12)
    )
    _read(path)
    data = path.read_bytes()
    # The first tag of the item, (0028,3002) US of 6 bytes, again with 4096, 9, 12; and the lengths
    # of the item and the sequence.
    place = data.index(b"\x28\0\x02\x30US")
    again = data[place : place + 8] + np.array([4096, 9, 12], "<u2").tobytes()
    longer = bytearray(data[:place] + again + data[place:])
    for start in (place - 4, place - 12):
        length = int.from_bytes(longer[start : start + 4], "little") + len(again)
        longer[start : start + 4] = length.to_bytes(4, "little")
    path.write_bytes(longer)
    with pytest.raises(RejectedFileError, match="header"):
        _read(path)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the shapes
@pytest.mark.parametrize("shape", ["LIN OD", "inverse", ["IDENTITY", "INVERSE"]])
def test_other_presentation_luts_are_refused(dicom_file, tmp_path, shape):
    with pytest.raises(RejectedFileError, match="presentation_lut"):
        _read(dicom_file(tmp_path / "f", smooth_values(), PresentationLUTShape=shape))
    change = _lut("PresentationLUTSequence", np.arange(4096), 0, 12)
    with pytest.raises(RejectedFileError, match="presentation_lut"):
        _read(dicom_file(tmp_path / "f", smooth_values(), change=change))


def test_a_full_lut_of_65536_entries(dicom_file, tmp_path):
    stored, table = smooth_values(16), np.arange(65536)[::-1]
    path = dicom_file(tmp_path / "f", stored, bits=16, change=_lut("VOILUTSequence", table, 0, 16))
    _assert_close(_read(path), 65535 - stored.astype(np.float64))


def test_modality_luts(dicom_file, tmp_path):
    stored = smooth_values()
    table = np.round(65535 * np.sqrt(np.linspace(0.3, 1, 4096)))
    path = dicom_file(tmp_path / "f", stored, change=_lut("ModalityLUTSequence", table, 0, 16))
    picture = _read(path)
    _assert_close(picture, _stretched(table[stored]))
    assert picture.source.voi == "range"


@pytest.mark.parametrize(
    ("photometric", "shape", "inverse"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "", True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
@pytest.mark.parametrize("windowed", [False, True])
def test_one_inversion(dicom_file, tmp_path, photometric, shape, inverse, windowed):
    stored = smooth_values()
    elements = {} if shape is None else {"PresentationLUTShape": shape}
    if windowed:
        elements |= {"WindowCenter": 2048, "WindowWidth": 4096}
    path = dicom_file(tmp_path / "f", stored, PhotometricInterpretation=photometric, **elements)
    expected = stored / 4095 * 65535
    _assert_close(_read(path), 65535 - expected if inverse else expected)


# Without a window a few outliers do not darken the picture, and nothing is cut.


def _film(shape=(120, 160)):
    """A 12-bit picture without outliers: values 1000..2000 with a few beyond."""
    values = smooth_values(12, shape=shape).astype(np.float64)
    return np.round(1000 + values * 1000 / 4095).astype(np.uint16)


def _with_outliers(stored, kind):
    damaged = stored.copy()
    if kind == "a hot pixel":
        damaged[40, 50] = 4095
    elif kind == "hot and dead pixels":
        damaged.reshape(-1)[::2000] = 4095
        damaged.reshape(-1)[7::2000] = 0
    else:
        damaged[5:9, 5:9] = 4095  # a letter
    return damaged


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", ["a hot pixel", "hot and dead pixels", "a letter"])
def test_outliers_cost_little_contrast(dicom_file, tmp_path, kind, photometric):
    stored = _film()
    clean = _read(dicom_file(tmp_path / "c", stored, PhotometricInterpretation=photometric))
    damaged = _with_outliers(stored, kind)
    picture = _read(dicom_file(tmp_path / "d", damaged, PhotometricInterpretation=photometric))
    same_pixels = damaged == stored
    spread = np.ptp(np.percentile(picture.pixels[same_pixels], [5, 95]))
    assert spread > 0.6 * np.ptp(np.percentile(clean.pixels, [5, 95]))
    least, low, high, greatest = sorted(picture.source.limits)
    assert (least, greatest) == (damaged.min(), damaged.max())
    assert np.mean((stored < low) | (stored > high)) < 0.005


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", ["a hot pixel", "hot and dead pixels", "a letter"])
def test_the_record_restores_every_value(dicom_file, tmp_path, kind, photometric):
    stored = _with_outliers(_film(), kind)
    path = dicom_file(
        tmp_path / "f",
        stored,
        PhotometricInterpretation=photometric,
        RescaleSlope="0.5",
        RescaleIntercept="-100",
    )
    picture = _read(path)
    dark, darker, brighter, bright = picture.source.limits
    ends = {darker: 1 / 32, brighter: 31 / 32, dark: 0.0, bright: 1.0}
    shares, values = zip(*sorted((share, value) for value, share in ends.items()), strict=True)
    restored = np.interp(picture.pixels / 65535, shares, values)
    np.testing.assert_allclose((restored + 100) / 0.5, stored, atol=0.9)
    inside = (stored >= 2 * (min(darker, brighter) + 100)) & (
        stored <= 2 * (max(darker, brighter) + 100)
    )
    np.testing.assert_array_equal(np.round((restored + 100) / 0.5)[inside], stored[inside])


def test_limits_are_at_most_a_quarter_of_the_spread_beyond_the_tails():
    values = np.arange(10_000.0)
    counts = np.zeros(10_000, int)
    counts[2000:4000] = 1000  # the tails of 0.5% end at 2009 and 3989
    counts[[0, 2900, 9999]] += 1
    first, last = np.percentile(np.repeat(values, counts), [0.5, 99.5])
    limits = robust_range(values, counts)
    room = (last - first) / 4
    assert (limits.least, limits.greatest) == (0, 9999)
    np.testing.assert_allclose((limits.low, limits.high), (first - room, last + room), atol=2)
    assert robust_range(values[::-1], counts[::-1]) == limits
    counts[[0, 9999]] = 0
    assert robust_range(values, counts) == (2000, 2000, 3999, 3999)  # nothing lies far beyond


def test_the_range_of_almost_equal_pixels_is_whole():
    values, counts = np.arange(100.0), np.zeros(100, int)
    counts[[3, 50, 90]] = 1, 100_000, 1
    assert robust_range(values, counts) == (3, 3, 90, 90)
    np.testing.assert_allclose(stretch(values, robust_range(values, counts))[[3, 90]], [0, 1])


def test_the_count_of_a_large_picture_finds_its_extremes():
    stored = np.full((2000, 3000), 700, np.int16)
    stored[:, ::2] = 900
    stored[3, 4], stored[5, 6] = -2000, 1900
    counts = counted(stored, -2048, 2047)
    assert (np.flatnonzero(counts) - 2048).tolist() == [-2000, 700, 900, 1900]
    assert abs(counts[700 + 2048] / counts[900 + 2048] - 1) < 0.01


@pytest.mark.parametrize(
    ("photometric", "shape", "inverse"),
    [("MONOCHROME2", "INVERSE", True), ("MONOCHROME1", "IDENTITY", False)],
)
def test_a_contradiction_counts_only_where_bone_is_bright(
    dicom_file, tmp_path, photometric, shape, inverse
):
    """The standard prefers the shape; a file that becomes a negative or a riddle is refused."""
    limb = np.tile(400 + 3000 * np.hanning(60), (80, 1)).astype(np.uint16)
    elements = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
    right = 4095 - limb if inverse else limb
    grey = _read(dicom_file(tmp_path / "right", right, **elements)).pixels
    assert grey[:, 30].min() > grey[:, [0, -1]].max()
    for name, stored in (("negative", 4095 - right), ("riddle", smooth_values())):
        with pytest.raises(RejectedFileError) as error:
            _read(dicom_file(tmp_path / name, stored, **elements))
        assert error.value.code == "polarity"


# Padding and shutters: hidden pixels are black, do not affect the range, and are cropped.

SHAPE = (60, 80)


def _surrounded(value, signed=False):
    """A picture within a margin of one value, and the mask of the margin."""
    stored = smooth_values(signed=signed, shape=SHAPE)
    margin = np.ones(SHAPE, bool)
    margin[7:51, 11:71] = False
    return np.where(margin, np.array(value, stored.dtype), stored), margin


def _assert_hidden(picture, stored, hidden):
    expected = _stretched(stored[~hidden])
    np.testing.assert_allclose(picture.pixels[~hidden], expected, atol=0.501)
    assert not picture.pixels[hidden].any()
    rows, columns = np.nonzero(~hidden)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert picture.crop == (rows.min(), columns.min(), height, width)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("signed", "value"), [(False, 4095), (False, 0), (True, -2048)])
def test_padding_of_one_value(dicom_file, tmp_path, syntax, signed, value):
    stored, _ = _surrounded(value, signed)
    path = dicom_file(
        tmp_path / "f",
        stored,
        syntax=LOSSLESS[syntax],
        PixelPaddingValue=value,
        PhotometricInterpretation="MONOCHROME2",
    )
    _assert_hidden(_read(path), stored, stored == value)


def test_padding_stated_as_unsigned_of_signed_pixels(dicom_file, tmp_path):
    stored, _ = _surrounded(-2048, signed=True)

    def change(dataset):
        dataset.add_new("PixelPaddingValue", "US", 65536 - 2048)

    path = dicom_file(tmp_path / "f", stored, change=change)
    _assert_hidden(_read(path), stored, stored == -2048)


@pytest.mark.parametrize(("value", "limit"), [(300, 0), (0, 300), (4095, 3900)])
def test_padding_of_a_range(dicom_file, tmp_path, value, limit):
    stored, _ = _surrounded(value)
    stored[20:25, 30] = [limit, (value + limit) // 2, value, 1000, 2000]
    path = dicom_file(tmp_path / "f", stored, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    hidden = (stored >= min(value, limit)) & (stored <= max(value, limit))
    _assert_hidden(_read(path), stored, hidden)


RECTANGLE = {
    "ShutterLeftVerticalEdge": 12,
    "ShutterRightVerticalEdge": 71,
    "ShutterUpperHorizontalEdge": 8,
    "ShutterLowerHorizontalEdge": 51,
}
CIRCLE = {"CenterOfCircularShutter": [31, 42], "RadiusOfCircularShutter": 25}
TRIANGLE = {"VerticesOfThePolygonalShutter": [5, 40, 55, 70, 55, 10]}
ROWS, COLUMNS = np.mgrid[1 : SHAPE[0] + 1, 1 : SHAPE[1] + 1]  # the standard counts from 1
IN_RECTANGLE = (COLUMNS >= 12) & (COLUMNS <= 71) & (ROWS >= 8) & (ROWS <= 51)
IN_CIRCLE = (ROWS - 31) ** 2 + (COLUMNS - 42) ** 2 <= 25**2


@pytest.mark.parametrize(
    ("shape", "elements", "seen"),
    [
        ("RECTANGULAR", RECTANGLE, IN_RECTANGLE),
        ("CIRCULAR", CIRCLE, IN_CIRCLE),
        (["RECTANGULAR", "CIRCULAR"], RECTANGLE | CIRCLE, IN_RECTANGLE & IN_CIRCLE),
        (["BITMAP", "CIRCULAR"], CIRCLE, IN_CIRCLE),
    ],
)
def test_shutters(dicom_file, tmp_path, shape, elements, seen):
    stored = smooth_values(shape=SHAPE)
    path = dicom_file(tmp_path / "f", stored, ShutterShape=shape, **elements)
    _assert_hidden(_read(path), stored, ~seen)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_polygonal_shutters(dicom_file, tmp_path, photometric):
    stored = smooth_values(shape=SHAPE)
    path = dicom_file(
        tmp_path / "f",
        stored,
        ShutterShape=["POLYGONAL", "RECTANGULAR"],
        PhotometricInterpretation=photometric,
        **TRIANGLE,
        **RECTANGLE,
    )
    # Distances to the three sides, positive inside; on a side both results are correct.
    corners = np.reshape(TRIANGLE["VerticesOfThePolygonalShutter"], (3, 2)).astype(float)
    distance = np.full(SHAPE, np.inf)
    for (r0, c0), (r1, c1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        side = ((r1 - r0) * (COLUMNS - c0) - (c1 - c0) * (ROWS - r0)) * -1
        distance = np.minimum(distance, side / np.hypot(r1 - r0, c1 - c0))
    picture = _read(path)
    outside = (distance < -1) | ~IN_RECTANGLE
    assert not picture.pixels[outside].any()
    inside = (distance > 1) & IN_RECTANGLE
    assert inside.sum() > 900 and np.mean(picture.pixels[inside] > 0) > 0.99


def test_the_range_is_that_of_what_is_seen(dicom_file, tmp_path):
    """A burnt-in bright margin behind a shutter does not darken the picture."""
    stored, margin = _surrounded(4095)
    stored = np.where(margin, 4095, stored // 4).astype(np.uint16)
    picture = _read(dicom_file(tmp_path / "f", stored, ShutterShape="RECTANGULAR", **RECTANGLE))
    assert picture.pixels.max() == 65535
    _assert_hidden(picture, stored, ~IN_RECTANGLE)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the real files' headers
@pytest.mark.parametrize("name", ["vlut_04", "mlut_18", "RG1_J2KI", "RG2_JLSL"])
def test_real_grey_values_agree_with_the_peer_library(real_radiographs, name):
    path = real_radiographs / "dicom" / f"{name}.dcm"
    dataset = dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    if name == "vlut_04":
        expected = shown / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif name == "mlut_18":
        expected = (shown - shown.min()) / np.ptp(shown)
    elif name == "RG2_JLSL":
        expected = shown / 1023  # 10 bits
    else:
        assert dataset.PhotometricInterpretation == "MONOCHROME1"
        expected = 1 - shown / 32767  # 15 bits
    _assert_close(_read(path), expected * 65535)


def test_syntaxes_are_those_of_the_standard():
    assert [LOSSLESS[name] for name in SYNTAXES] == [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
    ]
