"""Tests of exported files with pydicom, DCMTK, dicom3tools and the ingest of this project."""

import csv
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)

from femur_jax.errors import UserError
from femur_jax.export.folder import export
from femur_jax.ingest.dicom import read_dicom
from tests.export.conftest import REAL, SYNTHETIC, radiographs, write

SCRIPT = Path(__file__).parents[2] / "tools" / "export_dicom.py"
NOT_YET_KNOWN = "(0008,001c)"
"""Synthetic Data, which is newer than dicom3tools of 2022."""


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def identified(synthetic, real, tmp_path_factory):
    """An identified export of both datasets with 12 bits."""
    out = tmp_path_factory.mktemp("identified") / "out"
    assert export([synthetic.folder, real.folder], out, allow_real=True) == 24
    return out


@pytest.fixture(scope="module")
def blinded(synthetic, real, tmp_path_factory):
    """A blinded export of both datasets."""
    out = tmp_path_factory.mktemp("blinded") / "out"
    export([synthetic.folder, real.folder], out, blinded=True, allow_real=True)
    return out


def _errors(dciodvfy: str, path: Path) -> list[str]:
    result = subprocess.run([dciodvfy, "-new", path], capture_output=True, text=True)
    return [line for line in result.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("kind", ["identified", "blinded"])
def test_dciodvfy_reports_no_error(kind, request, installed):
    dciodvfy = installed("dciodvfy", "dicom3tools")
    for path in _files(request.getfixturevalue(kind)):
        errors = [error for error in _errors(dciodvfy, path) if NOT_YET_KNOWN not in error]
        assert errors == [], path.name


def test_dciodvfy_reports_a_missing_attribute(identified, installed, tmp_path):
    ds = dcmread(identified / "00001.dcm")
    del ds.ImagerPixelSpacing
    ds.save_as(tmp_path / "broken.dcm")
    [error] = [
        error
        for error in _errors(installed("dciodvfy", "dicom3tools"), tmp_path / "broken.dcm")
        if NOT_YET_KNOWN not in error
    ]
    assert "ImagerPixelSpacing" in error


@pytest.mark.parametrize("bits", [12, 13, 16])
def test_a_display_shows_the_recorded_grey_values(bits, synthetic, tmp_path):
    export([synthetic.folder], tmp_path / "out", bits=bits)
    for n, path in enumerate(_files(tmp_path / "out")):
        ds = dcmread(path)
        assert (ds.BitsStored, ds.HighBit, ds.BitsAllocated) == (bits, bits - 1, 16)
        shown = apply_windowing(apply_modality_lut(ds.pixel_array, ds), ds)
        # pydicom's output range is that of the stored bits.
        half_step = 0 if bits == 16 else 0.5
        exact = synthetic.read(n) * ((2**bits - 1) / 65535)
        np.testing.assert_allclose(shown, exact, atol=half_step + 1e-6, rtol=0)


def test_recorded_bits_are_restored_exactly(tmp_path):
    """A radiograph of 12 bits keeps its values, although ingest spreads them over 16 bits."""
    recorded = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    [radiograph] = radiographs("synthetic", 1, seed=0)
    spread = np.round(recorded * (65535 / 4095)).astype(np.uint16)
    object.__setattr__(radiograph, "pixels", spread)
    write(tmp_path / "dataset", [radiograph], SYNTHETIC)
    export([tmp_path / "dataset"], tmp_path / "out")
    np.testing.assert_array_equal(dcmread(tmp_path / "out" / "00001.dcm").pixel_array, recorded)


def test_dcmtk_renders_the_same_picture(identified, synthetic, installed, tmp_path):
    render = installed("dcm2pnm", "dcmtk")
    for n in (0, 1, 2):
        path, picture = identified / f"{n + 1:05d}.dcm", tmp_path / "picture.png"
        command = [render, "--use-window", "1", "--write-16-bit-png", path, picture]
        subprocess.run(command, check=True)
        with Image.open(picture) as image:
            shown = np.asarray(image, np.int64)
        assert np.abs(shown - synthetic.read(n)).max() <= 65535 / 4095 / 2 + 1


def test_ingest_reads_the_same_radiograph(identified, synthetic, real):
    """Ingest restores pixels, spacing and the source of the spacing."""
    entries = [(dataset, n) for dataset in (synthetic, real) for n in range(12)]
    for path, (dataset, n) in zip(_files(identified), entries, strict=True):
        picture = read_dicom(path, lambda kind, name: name)
        error = picture.pixels.astype(np.int64) - dataset.read(n)
        assert np.abs(error).max() <= 65535 / 4095 / 2 + 0.5
        entry = dataset.entries[n]
        assert picture.spacing_mm == pytest.approx(entry.spacing_mm)
        assert picture.spacing_source == entry.spacing_source


def test_synthetic_images_are_marked(identified):
    ds = dcmread(identified / "00001.dcm")
    assert ds.SyntheticData == "YES"
    assert ds.SOPClassUID == DigitalXRayImageStorageForPresentation
    assert list(ds.ImageType) == ["DERIVED", "PRIMARY"]
    assert str(ds.PatientName).startswith("SYNTHETIC^")
    assert "model diffusion, seed 3, checkpoint 600" in ds.DerivationDescription
    [equipment] = ds.ContributingEquipmentSequence
    [purpose] = equipment.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109100", "DCM")
    assert ds.BurnedInAnnotation == "NO"


def test_images_of_patients_are_not_marked_synthetic(identified):
    for path in _files(identified)[12:]:
        ds = dcmread(path)
        assert "SyntheticData" not in ds and "ContributingEquipmentSequence" not in ds
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.get("BurnedInAnnotation") != "NO"  # nobody has checked the image


def test_spacing_decides_the_class(identified, synthetic, tmp_path):
    for path, entry in zip(_files(identified)[:12], synthetic.entries, strict=True):
        known = entry.spacing_source != "unknown"
        classes = (SecondaryCaptureImageStorage, DigitalXRayImageStorageForPresentation)
        assert dcmread(path).SOPClassUID == classes[known]
    export([synthetic.folder], tmp_path / "out", secondary_capture=True)
    for path in _files(tmp_path / "out"):
        ds = dcmread(path)
        assert (ds.SOPClassUID, ds.ConversionType) == (SecondaryCaptureImageStorage, "SYN")


def test_the_same_radiographs_give_the_same_files(synthetic, real, identified, tmp_path):
    export([synthetic.folder, real.folder], tmp_path / "again", allow_real=True)
    for first, second in zip(_files(identified), _files(tmp_path / "again"), strict=True):
        assert first.read_bytes() == second.read_bytes()


def _uids(folder: Path, keyword: str) -> list[UID]:
    return [dcmread(path, stop_before_pixels=True)[keyword].value for path in _files(folder)]


def test_uids_follow_from_content(synthetic, identified, tmp_path):
    uids = _uids(identified, "SOPInstanceUID")
    assert len(set(uids)) == 24 and all(uid.is_valid and len(uid) <= 64 for uid in uids)
    assert len(set(_uids(identified, "SeriesInstanceUID"))) == 24
    assert len(set(_uids(identified, "StudyInstanceUID"))) == 12  # two radiographs per patient
    changes = {"bits": {"bits": 16}, "class": {"secondary_capture": True}}
    for name, options in changes.items():
        export([synthetic.folder], tmp_path / name, **options)
    assert not set(uids) & set(_uids(tmp_path / "bits", "SOPInstanceUID"))
    assert (
        _uids(tmp_path / "class", "StudyInstanceUID") == _uids(identified, "StudyInstanceUID")[:12]
    )


def _header(ds: Dataset) -> str:
    """The header without the attributes that differ between blinded cases."""
    for name in (
        *("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientName"),
        *("Rows", "Columns", "PixelData"),
    ):
        del ds[name]
    return ds.to_json()


def test_blinded_headers_are_equal(blinded):
    assert len({_header(dcmread(path)) for path in _files(blinded)}) == 1
    for path in _files(blinded):
        text = path.read_bytes().lower()
        assert not re.search(rb"synthetic|real|patient-|diffusion|aff|nff|somewhere", text)


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_maps_cases_to_radiographs(blinded, synthetic, real):
    table = blinded.with_name("out.cases.csv")
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    rows = _rows(table)
    assert {(row["kind"], row["radiograph"]) for row in rows} == {
        (dataset.provenance["kind"], entry.name)
        for dataset in (synthetic, real)
        for entry in dataset.entries
    }
    for path, row in zip(_files(blinded), rows, strict=True):
        ds = dcmread(path)
        assert (path.name, ds.PatientID) == (row["file"], row["patient_id"])
        dataset = {"synthetic": synthetic, "real": real}[row["kind"]]
        [n] = [n for n, e in enumerate(dataset.entries) if e.name == row["radiograph"]]
        assert dataset.entries[n].label == row["label"]
        exact = dataset.read(n) * (4095 / 65535)
        assert np.abs(ds.pixel_array - exact).max() <= 0.5


def test_the_order_of_cases_depends_on_the_key(blinded, synthetic, real, tmp_path):
    """The order of datasets does not matter; another key gives another order and other UIDs."""
    folders, key = [real.folder, synthetic.folder], blinded.with_name("out.key")
    export(folders, tmp_path / "same", blinded=True, allow_real=True, key_file=key)
    export(folders, tmp_path / "other", blinded=True, allow_real=True)
    for first, second in zip(_files(blinded), _files(tmp_path / "same"), strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert not set(_uids(blinded, "SOPInstanceUID")) & set(
        _uids(tmp_path / "other", "SOPInstanceUID")
    )
    kinds = [
        [row["kind"] for row in _rows(table)]
        for table in (blinded.with_name("out.cases.csv"), tmp_path / "other.cases.csv")
    ]
    assert kinds[0] != kinds[1] and kinds[0] not in (sorted(kinds[0]), sorted(kinds[0])[::-1])


def test_a_table_of_cases_is_never_overwritten(synthetic, tmp_path):
    out, table = tmp_path / "out", tmp_path / "out.cases.csv"
    table.write_text("answers depend on this")
    with pytest.raises(UserError, match="other cases"):
        export([synthetic.folder], out, blinded=True)
    assert table.read_text() == "answers depend on this" and not out.exists()


def test_a_choice_holds_both_classes(synthetic, tmp_path):
    assert export([synthetic.folder], tmp_path / "out", per_class=3) == 6
    chosen = [dcmread(path).SeriesDescription for path in _files(tmp_path / "out")]
    assert sum(text.startswith("AFF") for text in chosen) == 3
    export([synthetic.folder], tmp_path / "other", per_class=3, seed=1)
    assert chosen != [dcmread(path).SeriesDescription for path in _files(tmp_path / "other")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 8}, "12 to 16"),
        ({"per_class": 0}, "1 or more"),
        ({"per_class": 7}, "has 6 radiographs with label NFF"),
        ({"key_file": Path("out/key"), "blinded": True}, "lies in the exported folder"),
    ],
)
def test_unusable_settings_are_refused(options, message, synthetic, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        export([synthetic.folder], Path("out"), **options)
    assert not list(tmp_path.iterdir())


def test_unusable_datasets_are_refused(synthetic, real, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no radiograph dataset"):
        export([tmp_path / "nothing"], out)
    with pytest.raises(UserError, match="--allow_real"):
        export([synthetic.folder, real.folder], out)
    with pytest.raises(UserError, match="Two of the datasets are the same"):
        export([synthetic.folder, synthetic.folder], out)
    with pytest.raises(UserError, match="lies in a dataset"):
        export([synthetic.folder], synthetic.folder / "out")
    assert not list(tmp_path.iterdir())
    out.mkdir()
    with pytest.raises(UserError, match="exists"):
        export([synthetic.folder], out)


def test_a_dataset_without_a_kind_is_not_synthetic(tmp_path):
    images = radiographs("test", 2, seed=0)
    for n, provenance in enumerate((REAL, {})):
        write(tmp_path / f"{n}", images, provenance)
        with pytest.raises(UserError, match="does not say"):
            export([tmp_path / f"{n}"], tmp_path / "out")


def test_a_full_disk_leaves_nothing(synthetic, installed, tmp_path):
    """A third of the files fills the file system of 48 KiB."""
    key = synthetic.folder.with_name("key")
    unshare = installed("unshare", "util-linux")
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "none", tmp_path]
    if subprocess.run([unshare, "--map-root-user", "--mount", *mount]).returncode:
        pytest.skip("users of this machine cannot mount a file system")
    script = f"""
        mount -t tmpfs -o size=48k none {tmp_path}
        {sys.executable} {SCRIPT} {synthetic.folder} --out={tmp_path}/out --blinded --key={key}
        echo "exit $?"; ls -A {tmp_path}
    """
    result = subprocess.run(
        [unshare, "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    assert "No space left on device" in result.stderr and "Traceback" not in result.stderr
    assert result.stdout.split("\n", 1) == ["exit 2", ""]
