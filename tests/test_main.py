"""The command line: what users get right, and what they get wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from femur_jax.data.shards import RadiographDataset
from femur_jax.main import STAGES, TOOLS
from tests.environment import one_device
from tests.run_commands import exit_code

ROOT = Path(__file__).parents[1]


def python(*command, **options):
    """Runs a Python program on one device."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=one_device(),
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def refusals(result):
    """Sentences that say what was refused; there is no traceback."""
    assert "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if line.startswith("femur_jax: ")]


def run_commands(commands):
    """Runs commands, each with its accepted exit codes, in one process."""
    return python(ROOT / "tests" / "run_commands.py", input=json.dumps(commands))


TINY = "--config=configs/gan.py:tiny"


MISTAKES = [
    ([TINY], ["--workdir"]),
    (["--config=configs/nothing.py", "--workdir={}"], ["nothing.py"]),
    (["--config=configs/gan.py:huge", "--workdir={}"], ["huge", "tiny"]),
    ([TINY, "--workdir={}", "--config.modle.size=3"], ["modle"]),
    ([TINY, "--workdir={}", "--config.train.steps=many"], ["many"]),
    ([TINY, "--workdir={}"], ["--config.dataset"]),
    ([TINY, "--workdir={}", "--config.dataset=/no/where"], ["/no/where", "ingest"]),
    (["guess", TINY, "--workdir={}"], ["guess", "sample"]),
    ([TINY, "--workdir={}", "extra"], ["extra"]),
    (["train", TINY, "--workdir={}", "--config.seed=1", "--unknown=2"], ["unknown"]),
    (["sample", "{}"], ["holds no run"]),
    (["study", TINY, "--workdir={}"], ["not of a study"]),
    (["train", "--config=configs/study.py:demo", "--workdir={}"], ["femur study"]),
    (["ingest", "--dicom=x", "--labels=y"], ["--out"]),
    (["plan-gpu", TINY, "--gpu=v100"], ["v100", "a100-40", "rtx4090"]),
    (["plan-gpu", TINY, "--nodes=8"], ["'8'", "2x8"]),
    (["plan-gpu", TINY, "--nodes=65x8"], ["64 nodes"]),
    (["plan-gpu", TINY, "--nodes=1x16"], ["8 GPUs"]),
    (["plan-gpu", TINY, "--memory_fraction=1.5"], ["--memory_fraction"]),
    (["plan-gpu", TINY, "--colour=red"], ["colour"]),
]
"""Arguments, in which {} stands for a new folder, and words of the sentence that refuses them."""


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Folder and sentence of each mistake; all are made in one process."""
    folders = [tmp_path_factory.mktemp("mistake") / "run" for _ in MISTAKES]
    commands = [
        ([argument.format(folder) for argument in arguments], (2,))
        for (arguments, _), folder in zip(MISTAKES, folders, strict=True)
    ]
    result = run_commands(commands)
    assert result.returncode == 0, result.stderr
    return list(zip(folders, refusals(result), strict=True))


@pytest.mark.parametrize("n", range(len(MISTAKES)))
def test_mistakes_cost_one_sentence(mistakes, n):
    folder, sentence = mistakes[n]
    for word in MISTAKES[n][1]:
        assert word in sentence
    assert not folder.exists()


def test_help_lists_the_commands_with_an_example_each(capsys):
    shown = python("-m", "femur_jax.main", "--help").stdout
    assert "--config=configs/study.py:demo --workdir=runs/demo" in shown
    for command in (*TOOLS, *STAGES):
        assert f"    {command} " in shown
        assert exit_code([command, "--help"]) == 0
        assert f"femur {command} " in capsys.readouterr().out, command


def test_tools_are_the_commands():
    for script in sorted((ROOT / "tools").glob("*.py")):
        if "femur_jax.main" not in script.read_text():
            continue
        command = [sys.executable, script, "--help"]
        shown = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert shown.stdout.startswith("usage: femur "), script


def test_gan_from_training_to_evaluation(dataset, tmp_path):
    workdir = tmp_path / "run"
    common = [
        TINY,
        f"--workdir={workdir}",
        f"--config.dataset={dataset.folder}",
        "--config.model.size=16",
        "--config.model.channels=(8,8,8)",
        "--config.train.steps=3",
        "--config.train.batch_size=4",
    ]
    folder = str(workdir)
    commands = [
        (["sample", *common], (2,)),
        ([*common, "--config.sample.per_label=2"], (0,)),
        # The run directory is enough, and what is free may change.
        (["sample", folder, "--config.sample.per_label", "6"], (0,)),
        (["evaluate", folder], (0,)),
        (["train", folder, "--config.train.learning-rate=(1.0,1.0)"], (2,)),
    ]
    result = run_commands(commands)
    assert result.returncode == 0, result.stderr
    without, refused = refusals(result)
    assert "checkpoint" in without
    for word in ("another config", "learning_rate", "--workdir"):
        assert word in refused
    synthetic = RadiographDataset(workdir / "synthetic")
    assert [e.label for e in synthetic.entries] == ["NFF"] * 6 + ["AFF"] * 6
    assert synthetic.provenance["model"] == "gan"
    assert synthetic.provenance["checkpoint"] == 3
    assert {"dataset", "trained_on"} <= synthetic.provenance.keys()
    assert "KID" in result.stdout
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    assert evaluation["patches"]["fid"] > 0
    assert [row["label"] for row in evaluation["distances"]] == ["both"]
