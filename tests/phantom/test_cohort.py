"""Tests of the files of a cohort, which depend only on the seed."""

import csv
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest

from femur_jax.errors import UserError
from femur_jax.evaluation.descriptors import trace_shaft
from femur_jax.ingest.dicom import read_dicom
from femur_jax.phantom import cohort as cohort_module
from femur_jax.phantom.anatomy import axis_at, draw_femur
from femur_jax.phantom.cohort import write_cohort
from femur_jax.phantom.dicom_writer import draw_identity
from femur_jax.phantom.faults import annotate
from femur_jax.phantom.fracture import draw_fracture
from femur_jax.phantom.hospital import COMMON_SYNTAXES, draw_hospitals
from femur_jax.phantom.patient import frame, was_exposed
from femur_jax.phantom.plan import FAULTS, Patient

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "patients": 12,
    "images": 18,
    "hospitals": 6,
    "aff_fraction": 0.4,
    "long_side": (32, 64),
    "workers": 1,
    "seed": 7,
    "progress": False,
}


def truth_of(labels):
    lines = labels.parent.with_name(f"{labels.parent.name}.truth.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.dcm")}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("phantom") / "cohort", **SETTINGS)


@pytest.fixture(scope="module")
def rows(cohort):
    with cohort.open(newline="") as file:
        return list(csv.DictReader(file))


def test_labels_describe_every_file(cohort, rows):
    columns = ["path", "patient_id", "hospital", "label", "view", "laterality"]
    assert list(rows[0]) == [*columns, "age", "sex", "exposure"]
    written = {str(path) for path in files_of(cohort.parent)}
    assert {row["path"] for row in rows} == written
    assert len(written) == len(rows) == SETTINGS["images"]
    label_of = {}
    for row in rows:
        ds = pydicom.dcmread(cohort.parent / row["path"], stop_before_pixels=True)
        assert ds.get("Laterality", ds.get("ImageLaterality")) == row["laterality"]
        assert (ds.ViewPosition == "AP") == (row["view"] == "AP")
        assert label_of.setdefault(row["patient_id"], row["label"]) == row["label"]
        assert (ds.PatientAge, ds.PatientSex) == (f"{int(row['age']):03d}Y", row["sex"])
        assert max(ds.Rows, ds.Columns) in range(32, 65)
    assert len(label_of) == SETTINGS["patients"]
    assert list(label_of.values()).count("AFF") == round(12 * 0.4)
    truth = truth_of(cohort)
    assert [{name: str(t[name]) for name in rows[0]} for t in truth] == rows


def test_exposure_has_the_published_odds():
    """Odds ratio 33.3, 95% interval 14.3 to 77.8 (Schilcher et al. 2011, NEJM 364:1728)."""
    share = {
        label: np.mean([was_exposed(0, Patient(n, label, (), ())) for n in range(2000)])
        for label in ("AFF", "NFF")
    }
    odds = {label: p / (1 - p) for label, p in share.items()}
    assert 14.3 < odds["AFF"] / odds["NFF"] < 77.8
    assert share["AFF"] == pytest.approx(0.78, abs=0.03)


def test_files_differ_as_hospitals_do(cohort, rows):
    headers = [pydicom.dcmread(cohort.parent / row["path"]) for row in rows]
    assert {ds.file_meta.TransferSyntaxUID for ds in headers} == set(COMMON_SYNTAXES)
    assert len({ds.SOPInstanceUID for ds in headers}) == len(headers)
    assert {ds.PhotometricInterpretation for ds in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert all(ds.SyntheticData == "YES" and ds.PatientName and ds.PatientID for ds in headers)
    areas = [ds.Rows * ds.Columns for ds in headers]
    assert max(areas) >= 4 * min(areas)


def test_number_of_workers_and_choice_of_patients_change_no_file(cohort, tmp_path):
    """Workers run one thread each, and the environment of this process is restored."""
    environment = dict(os.environ)
    some = write_cohort(tmp_path / "some", **SETTINGS | {"workers": 2}, only=(3, 6))
    assert dict(os.environ) == environment
    chosen = {f"P{number:05d}" for number in (4, 5, 6)}
    expected = {p: b for p, b in files_of(cohort.parent).items() if p.name[:6] in chosen}
    assert files_of(some.parent) == expected
    assert len(expected) >= 3
    assert truth_of(some) == [t for t in truth_of(cohort) if t["patient_id"] in chosen]


@pytest.mark.parametrize(
    "change",
    [
        {"hospitals": 13},
        {"aff_fraction": 1.5},
        {"long_side": (64, 32)},
        {"images": 11},
        {"images": 97},
        {"faults": -0.5},
        {"workers": 0},
        {"only": (5, 5)},
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
    command = [sys.executable, "-m", "tools.make_phantoms", "--out", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and str(tmp_path) in result.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_failure_leaves_no_files(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(cohort_module, "write_patient", fail)
    with pytest.raises(OSError, match="disk full"):
        write_cohort(tmp_path / "cohort", **SETTINGS)
    assert not list(tmp_path.iterdir())


ORPHANS = """
import time
from functools import partial
from femur_jax.phantom.cohort import _simulated
with _simulated(partial(time.sleep), [60, 60], 2) as results:
    list(results)
"""


def test_workers_end_with_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], cwd=ROOT)
    deadline = time.monotonic() + 60
    workers = []
    while len(workers) < 3:  # two, and a tracker of resources
        assert time.monotonic() < deadline
        time.sleep(0.05)
        workers = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_what_a_killed_run_left_is_cleared(cohort, tmp_path):
    left = tmp_path / "cohort.partial"
    left.mkdir()
    (left / "labels.csv").write_text("path")
    (tmp_path / "cohort.lock").touch()
    write_cohort(tmp_path / "cohort", **SETTINGS, only=(0, 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort", "cohort.truth.jsonl"]


def test_bone_is_bright_in_every_file(displayed, cohort, rows):
    """The bone in the middle of the image is brighter than the tissue around it."""
    contrasts = []
    for row in rows:
        image = displayed(pydicom.dcmread(cohort.parent / row["path"]))
        h, w = image.shape
        core = image[h // 10 : -h // 10, w // 10 : -w // 10]
        contrasts.append(np.median(core.max(1)) - np.median(core))
    assert np.median(contrasts) > 0.2
    assert min(contrasts) > 0


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


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A patient for each fault, at a hospital where all faults are possible."""
    hospital = replace(
        draw_hospitals(1, 1, (64, 64))[0],
        modality="DX",
        transfer_syntax=COMMON_SYNTAXES[2],
        voi="window",
        rescale=(1.0, 0.0),
        bits=12,
        signed=False,
        outline="none",
    )
    folder = tmp_path_factory.mktemp("faults")
    records = {}
    for number, fault in enumerate(FAULTS):
        patient = Patient(number, "AFF", (hospital,), (fault,), 99 if not number else None)
        records[fault] = cohort_module.write_patient(folder, 1, patient)
    return folder, records


def test_faults_that_add_a_file(displayed, faulty):
    folder, records = faulty
    for fault in ("resent", "copied", "recoded", "unprocessed"):
        first, second = records[fault][:2]
        a, b = (pydicom.dcmread(folder / r["path"]) for r in (first, second))
        assert (first["fault"], second["fault"], second["same_as"]) == ("", fault, first["path"])
        assert (a.SOPInstanceUID == b.SOPInstanceUID) == (fault == "resent")
        assert a.PatientID == b.PatientID
        same_syntax = a.file_meta.TransferSyntaxUID == b.file_meta.TransferSyntaxUID
        assert same_syntax == (fault != "recoded")
        if fault == "unprocessed":
            assert a.SourceImageSequence[0].ReferencedSOPInstanceUID == b.SOPInstanceUID
            assert np.corrcoef(displayed(a).ravel(), b.pixel_array.ravel())[0, 1] ** 2 > 0.8
        else:
            np.testing.assert_array_equal(a.pixel_array, b.pixel_array)
    misfiled = records["resent"][2]
    assert (misfiled["fault"], misfiled["patient_id"]) == ("misfiled", "P00100")


def test_faults_that_spoil_a_file(faulty):
    folder, records = faulty
    paths = {fault: folder / records[fault][0]["path"] for fault in FAULTS}
    assert paths["empty"].read_bytes() == b""
    assert all(records[f][0]["fault"] == f for f in ("empty", "truncated", "untagged", "high_bit"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match=r"."):
            _ = pydicom.dcmread(paths["truncated"]).pixel_array
        with pytest.raises((AttributeError, ValueError)):
            _ = pydicom.dcmread(paths["untagged"]).pixel_array
    ds = pydicom.dcmread(paths["high_bit"])
    assert ds.HighBit != ds.BitsStored - 1
    assert pydicom.dcmread(paths["annotated"]).BurnedInAnnotation == "YES"


def test_annotation_is_drawn_into_the_pixels():
    identity = draw_identity(np.random.default_rng(0), "test")
    plain = np.full((200, 120), 0.25)
    drawn = annotate(plain, identity)
    changed = drawn != plain
    assert 60 < changed.sum() < 3000 and (drawn[changed] == 1.0).all()
    assert not changed[:15].any() and not changed[80:].any()


def test_faults_are_as_frequent_as_requested(tmp_path, monkeypatch):
    planned = []

    def record_plan(_folder, _seed, patient, **_):
        planned.append(patient)
        return []

    monkeypatch.setattr(cohort_module, "write_patient", record_plan)
    settings = SETTINGS | {"patients": 1200, "images": 4300, "hospitals": 72, "faults": 0.05}
    write_cohort(tmp_path / "cohort", **settings)
    faults = Counter(fault for patient in planned for fault in patient.faults)
    assert 0.04 < 1.0 - faults[""] / 4300 < 0.06
    assert set(faults) == {"", *FAULTS}
    assert sum(patient.misfiled_as is not None for patient in planned) == 2


def test_edges_traced_in_pixels_are_the_true_ones(cohort):
    """Compares edges along the shaft in images that are wide enough to show the soft tissue."""
    errors = []
    for record in truth_of(cohort):
        picture = read_dicom(cohort.parent / record["path"], lambda kind, name: "")
        top, left, height, width = picture.crop
        if width < 24:
            continue
        shaft = trace_shaft(picture.pixels[top : top + height, left : left + width])
        column, row = np.concatenate([cortex["periosteum"] for cortex in record["cortices"]]).T
        row = (row - top).round().astype(int).clip(0, height - 1)
        distances = [abs(column - left - edge[row]) for edge in (shaft.left, shaft.right)]
        errors.append(np.median(np.minimum(*distances)))
    assert len(errors) >= 6
    assert np.median(errors) < 1
    assert np.mean(np.array(errors) < 2) > 0.8
