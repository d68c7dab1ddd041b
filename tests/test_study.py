"""The study's bookkeeping; `.ci/run` runs a whole one, kills it and lets it go on."""

import json

import pytest
from ml_collections import ConfigDict

from configs.study import get_config
from femur_jax import study, workdir
from femur_jax.errors import UserError


@pytest.fixture
def config():
    return get_config("smoke")


def test_bad_input_leaves_nothing(config, tmp_path):
    radiographs = tmp_path / "radiographs"
    radiographs.mkdir()
    labels = tmp_path / "labels.csv"
    lines = ["path,patient_id,hospital,label"]
    for n in range(48):
        (radiographs / f"{n}.dcm").write_text("no DICOM")
        lines.append(f"{n}.dcm,{n},hospital,{'AFF' if n % 2 else 'NFF'}")
    labels.write_text("\n".join(lines))
    config.labels = str(labels)
    for folder, message in ((tmp_path / "no", "no folder"), (radiographs, "not_dicom: 48")):
        config.radiographs = str(folder)
        with pytest.raises(UserError, match=message):
            study.run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_every_batch_is_checked_before_anything_is_made(config, tmp_path):
    config.classifier.train.batch_size = 12  # eight devices
    with pytest.raises(UserError, match="batch of 12"):
        study.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_stage_is_not_run_again(config, tmp_path):
    runs = []
    first = study.Study(config, tmp_path)
    first.once("ingest", lambda: runs.append("ingest"))
    again = study.Study(config, tmp_path)
    again.once("ingest", lambda: runs.append("ingest"))
    again.once("report", lambda: runs.append("report"))
    assert runs == ["ingest", "report"]
    assert set(json.loads((tmp_path / "finished.json").read_text())) == {"ingest", "report"}


def test_a_stage_that_fails_is_not_noted(config, tmp_path):
    def fail():
        raise UserError("no")

    with pytest.raises(UserError):
        study.Study(config, tmp_path).once("ingest", fail)
    assert "ingest" not in study.Study(config, tmp_path).finished


def test_a_workdir_belongs_to_one_config(tmp_path):
    config = ConfigDict({"a": 1, "train": {"steps": 2}, "stage": "train"})
    folder = tmp_path / "run"
    workdir.claim(folder, config, stage="train", free=("stage",))
    config.stage = "sample"
    workdir.claim(folder, config, stage="train", free=("stage",))
    config.train.steps = 3
    config.a = 2
    with pytest.raises(UserError, match=r"it differs in config\.a, config\.train\.steps"):
        workdir.claim(folder, config, stage="train", free=("stage",))
