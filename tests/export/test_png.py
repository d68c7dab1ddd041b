"""Tests of exported PNG files with Pillow, and with the ingest of this project."""

import csv
import dataclasses

import numpy as np
import pytest
from PIL import Image

from femur_jax.commands.export import main
from femur_jax.data.cohort import read_labels
from femur_jax.errors import UserError
from femur_jax.export.folder import export_png
from femur_jax.export.png import encode_png
from femur_jax.ingest.image_file import read_image_file
from tests.export.conftest import REAL, radiographs, write


@pytest.fixture(scope="module")
def exported(synthetic, real, tmp_path_factory):
    """A PNG export of both datasets."""
    out = tmp_path_factory.mktemp("png") / "out"
    assert export_png([synthetic.folder, real.folder], out, allow_real=True) == 24
    return out


def _rows(folder):
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_pillow_reads_the_grey_values(exported, synthetic, real):
    rows = _rows(exported)
    assert {path.name for path in exported.iterdir()} == {"labels.csv", *(r["path"] for r in rows)}
    datasets = {"synthetic": synthetic, "real": real}
    seen = set()
    for row in rows:
        dataset = datasets[row["kind"]]
        [n] = [n for n, e in enumerate(dataset.entries) if e.name == row["radiograph"]]
        with Image.open(exported / row["path"]) as picture:
            assert (picture.format, picture.mode) == ("PNG", "I;16")
            np.testing.assert_array_equal(np.asarray(picture), dataset.read(n))
        entry = dataset.entries[n]
        for name in ("label", "view", "laterality", "hospital", "split", "spacing_source"):
            assert row[name] == getattr(entry, name)
        assert float(row["spacing_mm"]) == entry.spacing_mm
        assert row["patient_id"].endswith(f"-{entry.patient}")
        seen.add((row["kind"], n))
    assert len(seen) == 24


def test_ingest_reads_the_folder_again(tmp_path):
    images = [dataclasses.replace(r, patient=f"p-{r.label}") for r in radiographs("real", 4, 0)]
    dataset = write(tmp_path / "dataset", images, REAL)
    export_png([dataset.folder], tmp_path / "out", allow_real=True)
    rows = read_labels(tmp_path / "out" / "labels.csv", tmp_path / "out")
    for n, row in enumerate(rows):
        entry = dataset.entries[n]
        stated = row.hospital, row.label, row.view, row.laterality
        assert stated == (entry.hospital, entry.label, entry.view, entry.laterality)
        picture = read_image_file(tmp_path / "out" / row.path)
        np.testing.assert_array_equal(picture.pixels, dataset.read(n))
    assert [row.patient_id.partition("-")[2] for row in rows] == ["p-NFF", "p-AFF"] * 2


def test_a_dark_radiograph_stays_dark(tmp_path):
    """Its values fit into 12 bits, so it would be stretched if the file did not state 16."""
    pixels = radiographs("real", 1, seed=0)[0].pixels >> 4
    (tmp_path / "dark.png").write_bytes(encode_png(pixels))
    np.testing.assert_array_equal(read_image_file(tmp_path / "dark.png").pixels, pixels)


def test_further_columns_are_kept(tmp_path):
    images = radiographs("real", 2, seed=0)
    for n, radiograph in enumerate(images):
        radiograph.columns.update({"age": 71.5, "exposure": None} if n else {"age": 80.0})
    write(tmp_path / "dataset", images, REAL)
    export_png([tmp_path / "dataset"], tmp_path / "out", allow_real=True)
    table = [(row["age"], row["exposure"]) for row in _rows(tmp_path / "out")]
    assert table == [("80.0", ""), ("71.5", "")]


def test_the_command_writes_png_files(synthetic, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(synthetic.folder), f"--out={out}", "--png", "--per_class=2"]) == 0
    assert capsys.readouterr().out == f"4 files in {out}\n"
    assert [row["label"] for row in _rows(out)].count("AFF") == 2


@pytest.mark.parametrize("option", ["--bits=16", "--blinded", "--secondary_capture"])
def test_options_of_dicom_files_are_refused(option, synthetic, tmp_path):
    with pytest.raises(UserError, match=f"{option.split('=')[0]} goes with DICOM files only"):
        main([str(synthetic.folder), f"--out={tmp_path / 'out'}", "--png", option])


def test_radiographs_of_patients_need_consent(real, tmp_path):
    with pytest.raises(UserError, match="--allow_real"):
        export_png([real.folder], tmp_path / "out")
    assert not list(tmp_path.iterdir())
