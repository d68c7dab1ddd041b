import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from femur_jax.errors import UserError
from femur_jax.ingest import dcmtk
from femur_jax.ingest.check import ACCEPTED, COLUMNS, check
from femur_jax.ingest.dicom import read_dicom
from femur_jax.ingest.pipeline import Limits
from femur_jax.main import main
from tests.ingest.conftest import LOSSLESS, LOSSY, same, smooth_values, write_dicom

SHAPE = (60, 70)
VALUES = smooth_values(shape=SHAPE)
SIGNED = smooth_values(signed=True, shape=SHAPE)
WINDOW = {"WindowCenter": "2000", "WindowWidth": "3000"}


def _voi_lut(dataset):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 12])
    item.add_new("LUTData", "OW", (np.linspace(0, 1, 4096) ** 2 * 4095).astype("<u2").tobytes())
    dataset.VOILUTSequence = [item]


PICTURES = {
    "window": (VALUES, WINDOW),
    "sigmoid": (VALUES, WINDOW | {"VOILUTFunction": "SIGMOID"}),
    "MONOCHROME1": (VALUES, WINDOW | {"PhotometricInterpretation": "MONOCHROME1"}),
    "inverse": (
        VALUES,
        WINDOW | {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ),
    "signed": (SIGNED, {"WindowCenter": "-100", "WindowWidth": "3000"}),
    "rescaled": (VALUES, {"RescaleSlope": "2", "RescaleIntercept": "-1024"} | WINDOW),
    "no window": (VALUES, {}),
    "no window, MONOCHROME1": (VALUES, {"PhotometricInterpretation": "MONOCHROME1"}),
    "no window, signed and rescaled": (SIGNED, {"RescaleSlope": "2", "RescaleIntercept": "7"}),
    "one hot pixel": (np.where(np.arange(VALUES.size).reshape(SHAPE), VALUES // 9, 4095), {}),
    "table": (VALUES, {"change": _voi_lut}),
    "shutter": (
        VALUES,
        WINDOW
        | {
            "ShutterShape": "CIRCULAR",
            "CenterOfCircularShutter": [30, 35],
            "RadiusOfCircularShutter": 25,
        },
    ),
}


@pytest.fixture(scope="module")
def needs_dcmtk():
    if not dcmtk.programs():
        pytest.skip("dcmtk is not installed")


@pytest.mark.parametrize("name", PICTURES)
def test_dcmtk_shows_the_same_picture(needs_dcmtk, tmp_path, name):
    stored, elements = PICTURES[name]
    path = write_dicom(tmp_path / "f", stored.astype(stored.dtype.newbyteorder("=")), **elements)
    apart = dcmtk.difference(path, read_dicom(path, same), seconds=20.0)
    assert apart is not None and apart <= 0.1


@pytest.mark.parametrize("name", LOSSLESS | LOSSY)
def test_dcmtk_decodes_all_but_jpeg_2000(needs_dcmtk, tmp_path, name):
    bits = 8 if name == "JPEG baseline" else 12
    stored = smooth_values(bits, shape=SHAPE)
    path = write_dicom(tmp_path / "f", stored, syntax=(LOSSLESS | LOSSY)[name], bits=bits)
    apart = dcmtk.difference(path, read_dicom(path, same), seconds=20.0)
    if "2000" in name:
        assert apart is None
    else:  # inverse cosine transforms may round differently
        assert apart is not None and apart <= (1 if name in LOSSY else 0.1)


def test_another_picture_differs(needs_dcmtk, tmp_path):
    path = write_dicom(tmp_path / "f", VALUES, **WINDOW)
    other = write_dicom(tmp_path / "other", VALUES, **WINDOW | {"WindowCenter": "2100"})
    apart = dcmtk.difference(path, read_dicom(other, same), seconds=20.0)
    assert apart == pytest.approx(255 * 100 / 2999, abs=0.2)
    taller = write_dicom(tmp_path / "taller", np.pad(VALUES, ((0, 1), (0, 0))), **WINDOW)
    assert dcmtk.difference(path, read_dicom(taller, same), seconds=20.0) == 255


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A folder as a hospital may send it, whose names and headers hold identities."""
    folder = tmp_path_factory.mktemp("sent") / "CANARY"
    folder.mkdir()
    person = {"PatientName": "CANARY^Anna", "PatientID": "CANARY1"}
    write_dicom(folder / "CANARY a.dcm", VALUES, **WINDOW, **person)
    whole = write_dicom(folder / "b", VALUES, syntax=uid.JPEGLSLossless, **person).read_bytes()
    (folder / "c").write_bytes(whole[:-8])
    (folder / "d.txt").write_text("CANARY")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)).save(
        folder / "e.png"
    )
    write_dicom(folder / "f", VALUES, change=_far_too_large)
    return folder


def _far_too_large(dataset):
    dataset.Rows = dataset.Columns = 60_000


CODES = [ACCEPTED, ACCEPTED, "pixels_cut", "not_dicom", ACCEPTED, "too_large"]


def test_the_table_names_each_file_for_its_owner_alone(sent, capsys, tmp_path):
    table = tmp_path / "check.csv"
    assert main(["ingest", f"--check={sent}", f"--files={table}", "--workers=1"]) == 0
    assert table.stat().st_mode & 0o777 == 0o600
    with table.open(newline="", encoding="utf-8-sig") as file:
        columns, *rows = csv.reader(file)
    assert tuple(columns) == COLUMNS
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [row[1] for row in rows] == CODES
    assert all(50 < int(row[2]) < 1024 for row in rows)
    assert [row[4] for row in rows] == ["CANARY a.dcm", "b", "c", "d.txt", "e.png", "f"]
    printed = capsys.readouterr()
    assert "CANARY" not in printed.out + printed.err
    head, *lines = printed.out.splitlines()
    assert head.split() == ["code", "files", "first", "hint"]
    assert [line.split()[:3] for line in lines[:4]] == [
        ["accepted", "3", "1"],
        ["not_dicom", "1", "4"],
        ["pixels_cut", "1", "3"],
        ["too_large", "1", "6"],
    ]
    assert lines[4].startswith("Peak memory of a worker process: ")
    if dcmtk.programs():
        assert [bool(row[3]) for row in rows] == [True, True, False, False, False, False]
        assert lines[5] == "Of 3 accepted files, dcmtk shows 2."
        assert lines[6].startswith("Equal within 1 of 255 levels: 100.0%.")
    else:
        assert lines[5] == "No picture is compared, since dcmtk is not installed."


def test_without_a_table_nothing_is_written(sent, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = json.dumps(sorted(map(str, sent.rglob("*"))))
    monkeypatch.setenv("PATH", str(tmp_path))  # as where dcmtk is not installed
    assert main(["ingest", f"--check={sent}", "--workers=1"]) == 0
    assert "since dcmtk is not installed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert json.dumps(sorted(map(str, sent.rglob("*")))) == before


def test_the_peak_is_that_of_each_file_alone(tmp_path):
    write_dicom(tmp_path / "a", np.tile(VALUES, (40, 40)))
    write_dicom(tmp_path / "b", VALUES)
    large, small = check(tmp_path, workers=1, limits=Limits())
    assert large.peak_mib is not None and small.peak_mib is not None
    # The large file has 7 megapixels of two bytes, in several copies.
    assert large.peak_mib > small.peak_mib + 13


def test_limits_are_those_of_the_ingest(tmp_path):
    write_dicom(tmp_path / "f", np.tile(VALUES, (40, 40)))
    [result] = check(tmp_path, workers=1, limits=Limits(memory=10 << 20, seconds=60.0))
    assert (result.code, result.peak_mib) == ("memory", None)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--check=absent"], "There is no folder of radiographs"),
        (["--check=empty"], "holds no file"),
        (["--check=full", "--files=full/f"], "exists"),
        (["--check=full", "--workers=0"], "number of workers is 0"),
        (["--draft_labels=table.csv"], "--dicom is required"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/f").write_text("f")
    assert main(["ingest", *arguments]) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert named in line and not printed.out


def test_the_number_of_workers_is_checked(tmp_path):
    with pytest.raises(UserError, match="-1; give 1 or more"):
        check(tmp_path, workers=-1, limits=Limits())
