"""What `femur status` says of a study that is under way."""

import json

import imagecodecs
import numpy as np
import pytest

from configs.study import get_config
from femur_jax import run_folder
from femur_jax.main import main
from femur_jax.study.runner import Study

FINISHED = {
    "phantoms": 4.0,
    "ingest": 6.0,
    "train diffusion-pyramid-joint-0": 600.0,
    "train gan-letterbox-joint-0": 100.0,
    "sample diffusion-pyramid-joint-0": 60.0,
    "classifier real-0": 40.0,
    "classifier real-1": 60.0,
}


@pytest.fixture
def study(tmp_path):
    """The smoke study with two more seeds, of whose stages some have finished."""
    config = get_config("smoke")
    config.grid, config.seeds = ("diffusion-pyramid-joint", "gan-letterbox-joint"), (0, 1)
    run_folder.claim(tmp_path / "run", config, stage="plan")
    study = Study(config, tmp_path / "run")
    (study.workdir / "finished").mkdir()
    for name, seconds in FINISHED.items():
        (study.workdir / "finished" / name).write_text(json.dumps(seconds))
    return study


def printed(study, capsys):
    assert main(["status", str(study.workdir)]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_stages_take_as_long_as_those_most_alike(study, capsys):
    lines = printed(study, capsys)
    assert lines[1:5] == [
        "phantoms 1 of 1 4.0 s –",
        "ingest 1 of 1 6.0 s –",
        "train 2 of 4 11 min 40 s 11 min 40 s",  # 600 s of diffusion, 100 s of the GAN
        "sample 1 of 4 1 min 0 s 3 min 0 s",
    ]
    classifiers = sum(stage.name.startswith("classifier") for stage in study.stages)
    took, left = 100, 50 * (classifiers - 2)
    assert lines[5] == f"classifier 2 of {classifiers} 1 min 40 s {left // 60} min {left % 60} s"
    assert lines[6:8] == ["measure 0 of 4 – unknown", "report 0 of 1 – unknown"]
    minutes, seconds = divmod(700 + 180 + left, 60)
    assert lines[8] == (
        f"Left: about {minutes} min {seconds} s, one stage after the other, not counting "
        "measure, report, since none has finished."
    )
    assert took == sum(FINISHED[f"classifier real-{n}"] for n in (0, 1))


def test_a_training_that_has_begun_continues_at_its_speed(study, capsys):
    folder = study.workdir / "generators" / "gan-letterbox-joint-1"
    config = get_config("smoke").gan
    config.train.steps = 2000
    run_folder.claim(folder, config, stage="train")
    (folder / "scalars.jsonl").write_text('{"step": 250}\n{"step": 500}\n{"st')
    (folder / "speed.jsonl").write_text('{"step": 500, "steps_per_second": 5.0}\n')
    (folder / "samples.png").write_bytes(imagecodecs.png_encode(np.zeros((2, 2), np.uint8)))
    lines = printed(study, capsys)
    assert lines[3] == "train 2 of 4 11 min 40 s 15 min 0 s"  # 600 s and 1500 steps of 0.2 s
    assert lines[8].startswith("train gan-letterbox-joint-1: step 500 of 2,000, ")
    assert lines[-1] == f"Newest pictures: {folder / 'samples.png'}"


def test_a_finished_study_names_its_report(study, capsys):
    for stage in study.stages:
        (study.workdir / "finished" / stage.name).write_text("1.5")
    lines = printed(study, capsys)
    assert not [line for line in lines if line.startswith("Left")]
    assert lines[-1] == f"Report: {study.workdir / 'report.html'}"
