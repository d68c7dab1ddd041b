"""Files of a cohort as a reader finds them."""

import csv
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from femur_jax.errors import UserError
from femur_jax.phantom.anatomy import axis_at, draw_femur
from femur_jax.phantom.cohort import frame, write_cohort
from femur_jax.phantom.dicom_writer import draw_identity, to_stored, write_radiograph
from femur_jax.phantom.fracture import draw_fracture
from femur_jax.phantom.hospital import TRANSFER_SYNTAXES, draw_hospitals

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "patients": 12,
    "hospitals": 6,
    "aff_fraction": 0.4,
    "long_side": (32, 64),
    "views_per_patient": (1, 2),
    "seed": 7,
    "progress": False,
}
PLUGINS = {
    "1.2.840.10008.1.2.4.70": ["gdcm"],
    "1.2.840.10008.1.2.4.80": ["pyjpegls", "gdcm"],
    "1.2.840.10008.1.2.4.90": ["pylibjpeg", "gdcm"],
    "1.2.840.10008.1.2.5": ["pylibjpeg", "pydicom"],
}


def displayed(ds):
    """The display pipeline by pydicom: 0 to 1, bone bright."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a LUT after a rescale in floating point
        shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(float)
    ends = np.array([0, 2**ds.BitsStored - 1]) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    low, high = (0.0, 65535.0) if "VOILUTSequence" in ds else ends
    shown = (shown - low) / (high - low)
    return 1.0 - shown if ds.PhotometricInterpretation == "MONOCHROME1" else shown


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("phantom") / "cohort", **SETTINGS)


@pytest.fixture(scope="module")
def rows(cohort):
    with cohort.open(newline="") as file:
        return list(csv.DictReader(file))


def test_labels_describe_every_file(cohort, rows):
    assert list(rows[0]) == ["path", "patient_id", "hospital", "label", "view", "laterality"]
    written = {str(p.relative_to(cohort.parent)) for p in cohort.parent.rglob("*.dcm")}
    assert {row["path"] for row in rows} == written
    assert len(written) == len(rows)
    label_of, home_of = {}, {}
    for row in rows:
        ds = pydicom.dcmread(cohort.parent / row["path"], stop_before_pixels=True)
        assert ds.Laterality == row["laterality"]
        assert (ds.ViewPosition == "AP") == (row["view"] == "AP")
        assert label_of.setdefault(row["patient_id"], row["label"]) == row["label"]
        assert home_of.setdefault(row["patient_id"], row["hospital"]) == row["hospital"]
    assert len(label_of) == SETTINGS["patients"]
    assert list(label_of.values()).count("AFF") == round(12 * 0.4)
    assert len(set(home_of.values())) == SETTINGS["hospitals"]
    for label in ("AFF", "NFF"):
        count = [
            sum(home_of[p] == h and label_of[p] == label for p in label_of)
            for h in sorted(set(home_of.values()))
        ]
        assert max(count) - min(count) <= 1  # no hospital prefers a class


def test_sizes_spread_by_four_in_area(cohort, rows):
    shapes = []
    for row in rows:
        ds = pydicom.dcmread(cohort.parent / row["path"], stop_before_pixels=True)
        shapes.append((ds.Rows, ds.Columns))
        assert 32 <= max(shapes[-1]) <= 64
    areas = [rows * columns for rows, columns in shapes]
    assert max(areas) >= 4 * min(areas)


def test_files_differ_as_hospitals_do(cohort, rows):
    headers = [pydicom.dcmread(cohort.parent / row["path"]) for row in rows]
    assert {ds.file_meta.TransferSyntaxUID for ds in headers} == set(TRANSFER_SYNTAXES)
    assert len({ds.SOPInstanceUID for ds in headers}) == len(headers)
    assert {ds.PhotometricInterpretation for ds in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert all(ds.SyntheticData == "YES" and ds.PatientName and ds.PatientID for ds in headers)


def test_equal_seeds_give_equal_files(cohort, rows, tmp_path):
    again = write_cohort(tmp_path / "again", **SETTINGS)
    for row in rows:
        first, second = (p.parent / row["path"] for p in (cohort, again))
        assert first.read_bytes() == second.read_bytes()
    assert cohort.read_bytes() == again.read_bytes()


def test_patients_do_not_depend_on_the_number_of_views(cohort, rows, tmp_path):
    more = write_cohort(tmp_path / "more", **SETTINGS | {"views_per_patient": (2, 2)})
    for path in {row["path"] for row in rows if row["path"].endswith("_1.dcm")}:
        first, second = (pydicom.dcmread(p.parent / path) for p in (cohort, more))
        assert first.PatientID == second.PatientID


@pytest.mark.parametrize(
    "change",
    [
        {"hospitals": 13},
        {"aff_fraction": 1.5},
        {"long_side": (64, 32)},
        {"views_per_patient": (0, 1)},
    ],
)
def test_impossible_numbers_are_refused(change, tmp_path):
    with pytest.raises(UserError, match=str(next(iter(np.ravel(list(change.values())))))):
        write_cohort(tmp_path / "cohort", **SETTINGS | change)
    assert not list(tmp_path.iterdir())


def test_folder_with_content_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not an empty folder"):
        write_cohort(tmp_path, **SETTINGS)
    command = [sys.executable, "tools/make_phantoms.py", "--out", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and str(tmp_path) in result.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_nothing_is_left_behind_by_a_failure(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("femur_jax.phantom.cohort.write_patient", fail)
    with pytest.raises(OSError, match="disk full"):
        write_cohort(tmp_path / "cohort", **SETTINGS)
    assert not list(tmp_path.iterdir())


def habits(**changes):
    return replace(draw_hospitals(0, 1, (64, 64))[0], **changes)


def write(path, hospital, image):
    identity = draw_identity(np.random.default_rng(0), "test")
    write_radiograph(
        path,
        image,
        hospital,
        identity,
        instance=1,
        view="AP",
        laterality="L",
        spacing=0.2,
        magnification=1.15,
    )
    return pydicom.dcmread(path)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda uid: uid.name)
def test_every_transfer_syntax_decodes_exactly(syntax, bits, tmp_path):
    image = np.random.default_rng(bits).random((61, 27))  # narrow and odd, as collimated images are
    hospital = habits(transfer_syntax=syntax, bits=bits, range=(0.0, 1.0), voi="none")
    ds = write(tmp_path / "a.dcm", hospital, image)
    assert (ds.file_meta.TransferSyntaxUID, ds.BitsStored) == (syntax, bits)
    stored = to_stored(hospital, image)
    assert stored.max() > 2 ** (bits - 1)
    for plugin in PLUGINS.get(syntax, [""]):
        ds.pixel_array_options(decoding_plugin=plugin)
        np.testing.assert_array_equal(ds.pixel_array, stored)


def test_lossless_jpeg_uses_first_order_prediction(tmp_path):
    """ITU-T T.81 B.2.2, B.2.3: process 14 is SOF3; the selection value is Ss of the scan header."""
    hospital = habits(transfer_syntax=TRANSFER_SYNTAXES[1], bits=14)
    frame = get_frame(write(tmp_path / "a.dcm", hospital, np.eye(40)).PixelData, 0)
    start, scan = frame.index(b"\xff\xc3"), frame.index(b"\xff\xda")
    assert frame[start + 4] == 14
    assert frame[scan + 7] == 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("voi", "rescale"), [("window", (1.0, 0.0)), ("window", (0.5, -64.0)), ("lut", (1.0, 0.0))]
)
def test_display_pipeline_gives_the_image_back(photometric, voi, rescale, tmp_path):
    image = np.linspace(0, 1, 64 * 32).reshape(64, 32)
    hospital = habits(
        photometric=photometric, voi=voi, rescale=rescale, bits=12, range=(0.05, 0.8), modality="CR"
    )
    ds = write(tmp_path / "a.dcm", hospital, image)
    np.testing.assert_allclose(displayed(ds), image, atol=2e-3)


def test_bone_is_bright_in_every_file(cohort, rows):
    """The shaft at mid-image is brighter than the edges of the thigh."""
    contrasts = []
    for row in rows:
        image = displayed(pydicom.dcmread(cohort.parent / row["path"]))
        h, w = image.shape
        core = image[h // 10 : -h // 10, w // 10 : -w // 10]
        contrasts.append(np.median(core.max(1)) - np.median(core))
    assert np.median(contrasts) > 0.2
    assert min(contrasts) > 0


def test_grey_level_does_not_tell_the_class(cohort, rows):
    """Mean grey level orders the classes no better than 0.5 +- 0.25 in a cohort this small."""
    means = np.array([displayed(pydicom.dcmread(cohort.parent / r["path"])).mean() for r in rows])
    atypical = np.array([row["label"] == "AFF" for row in rows])
    auc = np.mean(means[atypical][:, None] > means[~atypical])
    assert 0.2 < auc < 0.8


@pytest.mark.parametrize("view", ["AP", "lateral"])
def test_the_fracture_is_in_the_image(view):
    rng = np.random.default_rng(0)
    for hospital in draw_hospitals(3, 8, (64, 512)):
        for label in ("AFF", "NFF") * 4:
            femur = draw_femur(rng, label)
            fracture = draw_fracture(rng, femur, label)
            camera, shape, spacing = frame(rng, femur, fracture, hospital, view, "L")
            x, y = (float(v) for v in axis_at(femur, float(fracture.height)))
            right, down = camera.pixel(np.array([x, y, fracture.height]))
            assert abs(down) / spacing < 0.42 * shape[0]  # inside the narrowest collimation
            assert abs(right) / spacing < 0.42 * shape[1]
