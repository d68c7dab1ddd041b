"""`femur predict` from files to the table and the pages."""

import csv
import json
import re
import shutil
import stat

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, logit

from configs.gan import get_config as gan_config
from femur_jax import run_folder
from femur_jax.classifier.task import predict as run_classifier
from femur_jax.data.cohort import Pseudonyms
from femur_jax.main import main
from femur_jax.prediction import page
from femur_jax.stages import predict
from tests.ingest.conftest import write_dicom
from tests.prediction.conftest import spotted

CODES = ["accepted"] * 6 + ["not_dicom", "not_image", "accepted"]


@pytest.fixture(scope="module")
def films(spots, tmp_path_factory):
    """Seven films of two patients and one of nobody, a text file and a broken picture."""
    folder = tmp_path_factory.mktemp("films") / "CANARYfolder"
    (folder / "b").mkdir(parents=True)
    dataset, _ = spots
    for n in range(5):
        Image.fromarray(dataset.read(dataset.split("test")[n])).save(folder / f"CANARY{n}.png")
    pixels, _ = spotted(np.random.default_rng(9), "AFF")
    person = {"PatientName": "CANARY^Anna", "PatientID": "CANARY1"}
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    write_dicom(folder / "CANARY5", pixels >> 4, **window, **person)
    (folder / "CANARY6.txt").write_text("CANARY")
    (folder / "CANARY7.png").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (20, 90), np.uint16)).save(
        folder / "b" / "noise.png"
    )
    rows = ["path,patient_id,hospital"]
    rows += [f"CANARY{n}{'.png' * (n < 5)},CANARYp{n // 3},CANARYh{n // 3}" for n in range(6)]
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def answered(films, run, tmp_path_factory):
    """The folder of the answers, their table by the film's path, and what was printed."""
    out = tmp_path_factory.mktemp("answers") / "answers"
    command = ["predict", str(run), str(films), f"--out={out}", "--workers=1"]
    assert main([*command, f"--patients={films / 'labels.csv'}"]) == 0
    with (out / predict.TABLE).open(newline="", encoding="utf-8-sig") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    return out, rows


def test_every_file_has_a_line_with_its_probability_or_its_code(answered):
    _, rows = answered
    assert [row["code"] for row in rows.values()] == CODES
    assert [row["file"] for row in rows.values()] == [str(n) for n in range(1, 10)]
    for row in rows.values():
        assert (row["probability"] != "") == (row["code"] == "accepted")
    assert [row["patient"] for row in rows.values()][:6] == list("111222")
    assert rows["b/noise.png"]["probability_of_patient"] == ""
    assert {"shape", "picture"} <= set(rows["b/noise.png"]["unlike"].split())
    assert not rows["CANARY0.png"]["unlike"]


def test_logits_are_those_of_the_ingested_radiographs(answered, spots, run):
    _, rows = answered
    model = predict.open_classifier(run)
    dataset, _ = spots
    found = run_classifier(model.task, model.params, dataset, dataset.split("test")[:5]).logit
    got = [float(rows[f"CANARY{n}.png"]["logit"]) for n in range(5)]
    np.testing.assert_allclose(got, found, atol=2e-3)


def test_a_patient_has_the_calibrated_mean_of_the_films(answered, run):
    """By Platt's curve, which the run directory keeps."""
    _, rows = answered
    curve = json.loads((run / predict.CALIBRATION).read_text())["curve"]
    for patient in "12":
        own = [row for row in rows.values() if row["patient"] == patient]
        mean = np.mean([float(row["logit"]) for row in own])
        expected = expit(curve["slope"] * mean + curve["intercept"])
        for row in own:
            assert float(row["probability_of_patient"]) == pytest.approx(expected, abs=2e-4)
            odds = curve["slope"] * float(row["logit"]) + curve["intercept"]
            assert logit(float(row["probability"])) == pytest.approx(odds, abs=0.05)


def test_the_pages_warn_and_name_nobody(answered, films):
    out, _ = answered
    html = (out / page.page_name(1)).read_text()
    assert html.count("ot a medical device") >= 2
    assert html.count("data:image/jpeg") == 3 * CODES.count("accepted")
    assert "Expected calibration error" in html and "narrower or wider" in html
    assert "hospitals took part in the training is unknown" in html
    assert not re.search(r"CANARY|noise\.png|https?:", html)
    for path in [out, *out.rglob("*")]:
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert {path.name for path in out.iterdir()} == {predict.TABLE, "predictions.html"}


def test_an_unknown_hospital_is_named_with_the_key(films, run, spots, tmp_path, monkeypatch):
    """The classifier knows pseudonyms alone; the second run needs no training data."""
    key = tmp_path / "key"
    basis = json.loads((run / predict.CALIBRATION).read_text())
    basis["familiar"]["hospitals"] = [Pseudonyms(key)("hospital", "CANARYh0")]
    moved = shutil.copytree(run, tmp_path / "run")
    (moved / predict.CALIBRATION).write_text(json.dumps(basis))
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"dataset": "absent"}))
    monkeypatch.setattr(page, "PER_PAGE", 1)
    command = f"predict {moved} {films / 'CANARY0.png'} {films / 'CANARY5'} --workers=1"
    table = tmp_path / "patients.csv"
    table.write_text(
        "path;patient_id;hospital\n"
        f"{films / 'CANARY0.png'};p;CANARYh0\n{films / 'CANARY5'};q;CANARYh9\n"
    )
    out = tmp_path / "out"
    assert main([*command.split(), f"--out={out}", f"--patients={table}", f"--key={key}"]) == 0
    with (out / predict.TABLE).open(newline="", encoding="utf-8-sig") as file:
        unlike = [row["unlike"] for row in csv.DictReader(file)]
    assert "hospital" not in unlike[0] and "hospital" in unlike[1]
    first, second = ((out / page.page_name(n)).read_text() for n in (1, 2))
    assert f'href="{page.page_name(2)}"' in first and "sent no radiograph" in second
    assert all(text.count("ot a medical device") >= 2 for text in (first, second))
    assert "is unknown" not in first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("RUN empty", "holds no file"),
        ("RUN unreadable", "No film can be read (not_dicom: 1)"),
        ("RUN absent", "no file or folder"),
        ("RUN unreadable --patients=unreadable/a.txt", "no column 'path'"),
        ("RUN unreadable --patients=other.csv", "names none of the films"),
        ("RUN unreadable --key=absent", "--key goes with --patients"),
        ("empty unreadable", "holds no run"),
        ("gan unreadable", "the run of a gan model"),
        ("LABELS unreadable", "was trained for cat and dog"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, monkeypatch, capsys, run, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "a.txt").write_text("no film")
    (tmp_path / "other.csv").write_text("path,patient_id\nb.png,1")
    if "LABELS" in arguments:
        shutil.copytree(run, "LABELS")
        basis = json.loads((run / predict.CALIBRATION).read_text())
        (tmp_path / "LABELS" / predict.CALIBRATION).write_text(
            json.dumps(basis | {"labels": ["cat", "dog"]})
        )
    if "gan" in arguments:
        run_folder.claim(tmp_path / "gan", gan_config("tiny"), stage="train")
    before = sorted(path.name for path in tmp_path.iterdir())
    capsys.readouterr()
    assert main(["predict", *arguments.replace("RUN", str(run)).split(), "--out=out"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before
