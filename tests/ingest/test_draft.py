import contextlib
import csv

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from femur_jax.data.cohort import read_labels
from femur_jax.errors import UserError
from femur_jax.main import main
from tests.ingest.conftest import smooth_values, write_dicom

ANNA = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientID": "19400317-1234",
    "PatientName": "CANARY^Anna",
    "InstitutionName": "Örebro  lasarett",
    "ViewPosition": "AP",
    "Laterality": "L",
    "PatientAge": "095Y",
    "PatientSex": "F",
}


def _coded_view(value):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "a view"
    return [item]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """DICOM files, two of them damaged, a PNG, and two files that show nothing."""
    folder = tmp_path_factory.mktemp("draft") / "films"
    (folder / "sub").mkdir(parents=True)
    headers = {
        "a.dcm": ANNA,
        "sub/b.dcm": ANNA
        | {"ViewPosition": "", "ViewCodeSequence": _coded_view("399067008"), "PatientSex": "O"},
        "=1+1.dcm": ANNA | {"PatientID": "=HYPERLINK(1)", "ImageLaterality": "R"},
        "d.dcm": {"ViewPosition": "PA", "Laterality": "B"},
    }
    for name, header in headers.items():
        write_dicom(folder / name, smooth_values(), **header)
    data = (folder / "a.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(data[: data.index(b"19400317") + 3])
    (folder / "broken.dcm").write_bytes(data[:200] + bytes(range(256)))
    directory = data.replace(
        b"1.2.840.10008.5.1.4.1.1.1.1\0", b"1.2.840.10008.1.3.10" + b"\0" * 8, 1
    )
    (folder / "DICOMDIR").write_bytes(directory)
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(folder / "e.png")
    (folder / "notes.txt").write_text("text")
    return folder


@pytest.fixture(scope="module")
def drafted(films):
    """The table of the films; what the command printed is in the file next to it."""
    table = films.with_name("labels.csv")
    with (films.parent / "printed").open("w") as printed, contextlib.redirect_stdout(printed):
        assert main(["ingest", f"--dicom={films}", f"--draft_labels={table}", "--workers=1"]) == 0
    return table


def test_a_draft_holds_what_the_headers_say(drafted):
    printed = drafted.with_name("printed").read_text()
    assert "has 7 lines; write NFF or AFF" in printed
    assert "path only: 4." in printed and "other kinds of files: 2." in printed
    assert drafted.stat().st_mode & 0o777 == 0o600
    assert "CANARY" not in drafted.read_text()
    with drafted.open(encoding="utf-8-sig", newline="") as file:
        rows = {row.pop("path"): list(row.values()) for row in csv.DictReader(file, delimiter=";")}
    anna, hospital = "19400317-1234", "Örebro lasarett"
    assert rows == {
        "./=1+1.dcm": ["'=HYPERLINK(1)", hospital, "", "AP", "R", "90", "F"],
        "a.dcm": [anna, hospital, "", "AP", "L", "90", "F"],
        "broken.dcm": [""] * 7,
        "cut.dcm": [""] * 7,
        "d.dcm": [""] * 7,
        "e.png": [""] * 7,
        "sub/b.dcm": [anna, hospital, "", "lateral", "L", "90", ""],
    }


def test_a_draft_is_refused_until_it_has_labels(films, drafted, tmp_path):
    with pytest.raises(UserError, match="line 2: label is empty, as in 7 of 7 lines") as error:
        read_labels(drafted, films)
    assert str(error.value).count(". ") == 0
    table = tmp_path / "labels.csv"
    lines = drafted.read_text(encoding="utf-8-sig").splitlines()
    kept = [line.replace(";;", ";AFF;", 1) for line in lines if "lasarett" in line]
    # As a spreadsheet in Sweden saves it.
    table.write_text("\r\n".join([lines[0], *kept]), encoding="cp1252")
    rows = read_labels(table, films, ["age"])
    assert [row.path for row in rows] == ["./=1+1.dcm", "a.dcm", "sub/b.dcm"]
    assert {row.columns["age"] for row in rows} == {90}


def test_a_draft_replaces_no_table(films, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("filled in")
    (tmp_path / "empty").mkdir()
    for folder, table, named in (
        (films, "labels.csv", "may hold labels"),
        (tmp_path / "nowhere", "new.csv", "no folder"),
        (tmp_path / "empty", "new.csv", "holds no radiograph"),
    ):
        assert main(["ingest", f"--dicom={folder}", f"--draft_labels={tmp_path / table}"]) == 2
        assert named in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["labels.csv"]
    assert (tmp_path / "labels.csv").read_text() == "filled in"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--labels --draft_labels --check is required"),
        (["--labels=a.csv"], "--out is required with --labels"),
        (["--labels=a.csv", "--draft_labels=b.csv"], "not allowed with argument --labels"),
    ],
)
def test_a_table_is_either_read_or_drafted(films, capsys, arguments, named):
    assert main(["ingest", f"--dicom={films}", *arguments]) == 2
    assert named in capsys.readouterr().err
