import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from femur_jax.data.radiograph import Source
from femur_jax.ingest.dicom import MAX_PIXELS, VENDORS, read_dicom
from femur_jax.ingest.rejection import RejectedFileError
from tests.ingest.conftest import LOSSLESS, LOSSY, encode_frame, same, smooth_values

TOLERANCE = {
    "JPEG-LS near-lossless": 2,
    "JPEG 2000": 30,
    "JPEG baseline": 4,
    "JPEG extended": 60,
}
# A window that only scales the stored values.
WIDE = {"WindowCenter": 0, "WindowWidth": 1 << 17, "VOILUTFunction": "LINEAR_EXACT"}


def _read(path):
    return read_dicom(path, same)


def _assert_shows(picture, stored):
    """Grey values of the full range of stored values, exact up to rounding."""
    values = stored.astype(np.float64)
    expected = 65535 * (values - values.min()) / np.ptp(values)
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_allclose(picture.pixels, expected, atol=0.501, rtol=0)


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_every_lossless_syntax(dicom_file, tmp_path, name, bits, signed):
    stored = smooth_values(bits, signed)
    path = dicom_file(tmp_path / "f", stored, syntax=LOSSLESS[name], bits=bits)
    picture = _read(path)
    _assert_shows(picture, stored)
    assert (picture.source.syntax, picture.source.bits) == (name, bits)
    assert picture.crop == (0, 0, 33, 47)


@pytest.mark.parametrize("name", LOSSY)
def test_every_lossy_syntax(dicom_file, tmp_path, name):
    bits = 8 if name == "JPEG baseline" else 12
    stored = smooth_values(bits)
    picture = _read(dicom_file(tmp_path / "f", stored, syntax=LOSSY[name], bits=bits, **WIDE))
    again = (picture.pixels / 65535 - 0.5) * (1 << 17)
    assert 0 < abs(again - stored).max() <= TOLERANCE[name] + 1
    assert picture.source.syntax == name


def test_eight_bits_in_sixteen(dicom_file, tmp_path):
    wide = smooth_values(8).astype(np.uint16)
    _assert_shows(_read(dicom_file(tmp_path / "wide", wide, bits=8)), wide)


@pytest.mark.parametrize("bits", [7, 12])
def test_signs_may_fill_the_unused_bits_or_not(dicom_file, tmp_path, bits):
    signed = smooth_values(bits, signed=True)
    unsigned = signed.view(f"u{signed.itemsize}")
    cut = unsigned & ((1 << bits) - 1)
    mixed = np.where(np.arange(47) % 2, unsigned, cut).astype(unsigned.dtype)
    for values in (unsigned, cut, mixed):
        path = dicom_file(tmp_path / "f", signed, bits=bits, frame=values.tobytes())
        _assert_shows(_read(path), signed)


def test_signed_values_beyond_their_bits_are_refused(dicom_file, tmp_path):
    path = dicom_file(tmp_path / "f", smooth_values(13, signed=True), bits=12)
    with pytest.raises(RejectedFileError, match="value_range"):
        _read(path)


def test_big_endian_bytes_come_alone_or_in_words(dicom_file, tmp_path):
    """PS3.5 8.1.2: 8-bit pixels are bytes in OB, and in OW words with the first pixel low."""
    stored = smooth_values(8, shape=(10, 12))
    options = {"syntax": uid.ExplicitVRBigEndian, "bits": 8}
    _assert_shows(_read(dicom_file(tmp_path / "OB", stored, **options)), stored)

    def words(dataset):
        dataset["PixelData"].VR = "OW"
        dataset.PixelData = stored.tobytes()

    dicom_file(tmp_path / "OW", stored, change=words, **options)
    # On disk the second pixel is the high byte, which comes first in big-endian order.
    swapped = np.frombuffer(stored.tobytes(), "<u2").astype(">u2").tobytes()
    on_disk = (tmp_path / "OW").read_bytes()
    assert stored.tobytes() in on_disk
    (tmp_path / "OW").write_bytes(on_disk.replace(stored.tobytes(), swapped))
    _assert_shows(_read(tmp_path / "OW"), stored)


@pytest.mark.parametrize("name", ["JPEG lossless SV1", "JPEG-LS", "JPEG 2000 lossless"])
@pytest.mark.parametrize("padding", [b"", b"\0", b"\xff\xff", b"\0\x20", b"\xcc"])
def test_codestreams_in_fragments_and_padded(dicom_file, tmp_path, name, padding):
    stored = smooth_values()
    code = encode_frame(stored, LOSSLESS[name]).rstrip(b"\0") + padding

    def in_fragments(dataset):
        dataset.PixelData = encapsulate([code], fragments_per_frame=3, has_bot=True)

    path = dicom_file(tmp_path / "f", stored, syntax=LOSSLESS[name], change=in_fragments)
    _assert_shows(_read(path), stored)


@pytest.mark.parametrize("name", ["JPEG lossless SV1", "JPEG-LS", "JPEG 2000 lossless"])
def test_codestreams_of_fewer_bits_than_stored(dicom_file, tmp_path, name):
    stored = smooth_values(12)
    frame = encode_frame(stored, LOSSLESS[name])
    elements = {"syntax": LOSSLESS[name], "bits": 16, "frame": frame}
    path = dicom_file(tmp_path / "f", stored, **elements, **WIDE)
    again = (_read(path).pixels / 65535 - 0.5) * (1 << 17)
    np.testing.assert_allclose(again, stored, atol=1.1)


def test_signed_jpeg_2000_of_fewer_bits(dicom_file, tmp_path):
    stored = smooth_values(12, signed=True)
    frame = bytes(
        imagecodecs.jpeg2k_encode(
            stored, codecformat="j2k", reversible=True, level=0, bitspersample=12, resolutions=3
        )
    )
    options = {"syntax": uid.JPEG2000Lossless, "bits": 16, "frame": frame}
    path = dicom_file(tmp_path / "f", stored, **options, **WIDE)
    again = (_read(path).pixels / 65535 - 0.5) * (1 << 17)
    np.testing.assert_allclose(again, stored, atol=1.1)


@pytest.mark.parametrize("name", ["JPEG extended", "JPEG 2000"])
def test_lossy_ringing_beyond_the_range_is_clipped_and_counted(dicom_file, tmp_path, name):
    stored = smooth_values(10, shape=(300, 400)) // 2 + 200
    stored[100:110, 100:112] = 1023  # a letter, whose sharp edge rings
    frame = encode_frame(stored, LOSSY[name], bits=12)
    options = {"syntax": LOSSY[name], "bits": 10, "frame": frame}
    decode = imagecodecs.jpeg8_decode if name == "JPEG extended" else imagecodecs.jpeg2k_decode
    beyond = int((decode(frame) > 1023).sum())
    assert 0 < beyond <= 120
    picture = _read(dicom_file(tmp_path / "f", stored, **options, **WIDE))
    assert picture.source.clipped == beyond
    assert picture.pixels.max() == round((1023 / (1 << 17) + 0.5) * 65535)
    wrong = options | {"bits": 9}  # far more values are beyond a wrong range
    with pytest.raises(RejectedFileError, match="value_range"):
        _read(dicom_file(tmp_path / "f", stored, **wrong))


def _twice(path, keyword, value, vr=None):
    """Writes an element a second time, in front of the pixel data, or behind it."""
    element = DataElement(keyword, vr or dictionary_VR(keyword), value)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_data_element(file, element)
    data, pixels = path.read_bytes(), b"\xe0\x7f\x10\0"
    place = data.index(pixels)
    return data[:place] + file.getvalue() + data[place:], data + file.getvalue()


@pytest.mark.parametrize(
    ("keyword", "value", "other"),
    [
        ("PhotometricInterpretation", "MONOCHROME2", "MONOCHROME1"),
        ("Rows", 33, 32),
        ("WindowWidth", "900", "901"),
        ("PixelRepresentation", 0, 1),
    ],
)
def test_elements_given_twice_must_agree(dicom_file, tmp_path, keyword, value, other):
    path = dicom_file(tmp_path / "f", smooth_values(), WindowCenter="800", WindowWidth="900")
    for content in _twice(path, keyword, other):
        (tmp_path / "g").write_bytes(content)
        with pytest.raises(RejectedFileError, match="header"):
            _read(tmp_path / "g")
    expected = _read(path).pixels
    (tmp_path / "g").write_bytes(_twice(path, keyword, value)[0])
    np.testing.assert_array_equal(_read(tmp_path / "g").pixels, expected)


def test_pixels_given_twice_must_agree(dicom_file, tmp_path):
    stored = smooth_values()
    path = dicom_file(tmp_path / "f", stored)
    (tmp_path / "g").write_bytes(_twice(path, "PixelData", stored.tobytes() + b"", "OW")[0])
    _read(tmp_path / "g")
    (tmp_path / "g").write_bytes(_twice(path, "PixelData", stored[::-1].tobytes(), "OW")[0])
    with pytest.raises(RejectedFileError, match="header"):
        _read(tmp_path / "g")


@pytest.mark.parametrize("rest", [bytes(3000), b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0" + bytes(8)])
def test_padding_after_the_pixels_is_no_element(dicom_file, tmp_path, rest):
    path = dicom_file(tmp_path / "f", smooth_values())
    expected = _read(path).pixels
    path.write_bytes(path.read_bytes() + rest)
    np.testing.assert_array_equal(_read(path).pixels, expected)


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
        ({"PixelSpacing": ["1e999", "1e999"]}, (0.0, "unknown")),
        ({"PixelSpacing": 0.2}, (0.0, "unknown")),
    ],
)
def test_spacing_and_where_it_is_known_from(dicom_file, tmp_path, elements, expected):
    picture = _read(dicom_file(tmp_path / "f", smooth_values(), **elements))
    assert (picture.spacing_mm, picture.spacing_source) == expected


@pytest.mark.parametrize(
    ("manufacturer", "vendor"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("FUJIFILM Corporation", "Fuji"),
        ("FUJI PHOTO FILM Co., ltd.", "Fuji"),
        ('"GE Healthcare"', "GE"),
        ("Philips Medical Systems, Anna Berg's room", "Philips"),
        ("Gerda Berg AB", "vendor:Gerda Berg AB"),
        ("Bergs röntgen", "vendor:Bergs röntgen"),
        ("123", "vendor:123"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom warns of the characters
def test_vendors_are_of_a_list_or_pseudonyms(dicom_file, tmp_path, manufacturer, vendor):
    elements = {} if manufacturer is None else {"Manufacturer": manufacturer}
    path = dicom_file(
        tmp_path / "f", smooth_values(), SpecificCharacterSet="ISO_IR 100", **elements
    )
    kept = _read(path).source.vendor
    assert kept == vendor or kept.startswith("vendor:Bergs r")
    assert not kept.startswith("vendor") or kept not in VENDORS


@pytest.mark.parametrize(
    ("elements", "age"),
    [
        ({"PatientAge": "067Y"}, 67),
        ({"PatientAge": "104Y"}, 90),
        ({"PatientAge": "018M"}, 0),
        ({"PatientAge": "old"}, 0),
        ({"PatientBirthDate": "19500615", "StudyDate": "20200614"}, 69),
        ({"PatientBirthDate": "19500615", "StudyDate": "20200615"}, 70),
        ({"PatientBirthDate": "19000615", "StudyDate": "20200615"}, 90),
        ({"PatientBirthDate": "20200615", "StudyDate": "19500615"}, 0),
        ({"PatientBirthDate": "", "StudyDate": "20200615"}, 0),
        ({}, 0),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom warns of values that are not ages
def test_ages_are_whole_years_and_capped(dicom_file, tmp_path, elements, age):
    assert _read(dicom_file(tmp_path / "f", smooth_values(), **elements)).source.age == age


@pytest.mark.parametrize(
    ("sex", "kept"),
    [("F", "F"), ("M", "M"), ("O", "unknown"), ("ANNA", "unknown"), ("", "unknown")],
)
def test_sex_and_intent_are_of_their_lists(dicom_file, tmp_path, sex, kept):
    path = dicom_file(
        tmp_path / "f", smooth_values(), PatientSex=sex, PresentationIntentType="FOR PROCESSING"
    )
    assert (_read(path).source.sex, _read(path).source.intent) == (kept, "processing")
    path = dicom_file(tmp_path / "f", smooth_values(), PresentationIntentType="ANNA")
    assert _read(path).source.intent == "unknown"


def test_nothing_else_of_a_header_is_kept(dicom_file, tmp_path):
    """Names planted in many elements, also nested and private ones, do not reach the result."""
    canaries = {
        keyword: f"CANARY{number}"
        for number, keyword in enumerate(
            [
                *("PatientName", "PatientID", "InstitutionName", "StudyDescription", "StationName"),
                *("ImageComments", "AccessionNumber", "ProtocolName", "OperatorsName", "BodyPart"),
                *("PresentationIntentType", "PatientSex", "PixelSpacingCalibrationType"),
            ]
        )
        if keyword != "BodyPart"
    }

    def plant(dataset):
        item = Dataset()
        item.PatientName = "CANARY^nested"
        item.ReferencedSOPInstanceUID = "1.2.99"
        dataset.SourceImageSequence = [item]
        dataset.private_block(0x0009, "CANARY", create=True).add_new(1, "LO", "CANARY")

    picture = _read(dicom_file(tmp_path / "f", smooth_values(), change=plant, **canaries))
    assert b"CANARY^nested" in (tmp_path / "f").read_bytes()
    kept = (picture.spacing_source, picture.source, picture.instance, picture.made_from)
    assert "CANARY" not in repr(kept)
    assert picture.source == Source(syntax="explicit", bits=12, limits=(0.0, 0.0, 4095.0, 4095.0))


def test_instances_and_what_they_were_made_from(dicom_file, tmp_path):
    def sources(dataset):
        items = [Dataset(), Dataset(), Dataset()]
        items[0].ReferencedSOPInstanceUID, items[2].ReferencedSOPInstanceUID = "1.5", "1.6"
        dataset.SourceImageSequence = items

    picture = _read(dicom_file(tmp_path / "f", smooth_values(), change=sources))
    assert picture.instance == "instance:1.2.3.4"
    assert picture.made_from == ("instance:1.5", "instance:1.6")
    picture = _read(dicom_file(tmp_path / "f", smooth_values(), SOPInstanceUID=""))
    assert (picture.instance, picture.made_from) == ("", ())


def test_too_large_leaves_room_for_the_largest_detectors():
    assert MAX_PIXELS > 2 * 15e6


REAL = {
    "MR_small_bigendian": None,
    "MR_truncated": "pixels_cut",
    "RG1_J2KI": None,
    "RG2_JLSL": None,
    "RG2_JLSN": None,
    "RG2_JPLL": None,
    "RG2_JPLY": None,
    "RG2_JPLY_fixed": None,
    "badVR": "header",
    "bad_sequence": None,
    "emri_small_jpeg_2k_lossless_too_short": "pixels_cut",
    "image_dfl": None,
    "meta_missing_tsyntax": "transfer_syntax",
    "mlut_18": None,
    "no_meta": "not_dicom",
    "vlut_04": None,
}


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the real files' headers
@pytest.mark.parametrize("name", REAL)
def test_real_files(real_radiographs, name):
    path = real_radiographs / "dicom" / f"{name}.dcm"
    if REAL[name] is None:
        picture, dataset = _read(path), dcmread(path)
        assert picture.pixels.shape == (dataset.Rows, dataset.Columns)
        assert picture.source.photometric == dataset.PhotometricInterpretation
    else:
        with pytest.raises(RejectedFileError) as error:
            _read(path)
        assert error.value.code == REAL[name]


@pytest.mark.filterwarnings("ignore")
def test_real_codecs_agree(real_radiographs):
    """One picture in four transfer syntaxes, written by other encoders."""
    folder = real_radiographs / "dicom"
    exact = _read(folder / "RG2_JPLL.dcm")
    assert (exact.spacing_mm, exact.spacing_source) == (0.2, "unknown")
    np.testing.assert_array_equal(_read(folder / "RG2_JLSL.dcm").pixels, exact.pixels)
    for lossy, step in (("RG2_JLSN", 10 / 1023), ("RG2_JPLY_fixed", 60 / 1023)):
        other = _read(folder / f"{lossy}.dcm").pixels
        difference = abs(other.astype(float) - exact.pixels) / 65535
        assert 0 < difference.mean() < 0.005
        assert np.quantile(difference, 0.999) < step
