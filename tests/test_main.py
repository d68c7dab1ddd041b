"""The command line: what users get right, and what they get wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from femur_jax.data.shards import RadiographDataset
from femur_jax.main import STAGES, TOOLS

ROOT = Path(__file__).parents[1]


def run(*arguments):
    """Runs femur_jax.main as a user would, on one device."""
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "femur_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_refused(result, *words):
    """Exit code 2 and one sentence that holds all the words."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("femur_jax: ")]
    for word in words:
        assert word in line


TINY = "--config=configs/gan.py:tiny"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
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
    ],
)
def test_mistakes_cost_one_sentence(arguments, words, tmp_path):
    workdir = tmp_path / "run"
    assert_refused(run(*[a.format(workdir) for a in arguments]), *words)
    assert not workdir.exists()


def test_help_lists_the_commands_with_an_example_each():
    shown = run("--help").stdout
    assert "--config=configs/study.py:demo --workdir=runs/demo" in shown
    for command in (*TOOLS, *STAGES):
        assert f"    {command} " in shown
        result = run(command, "--help")
        assert result.returncode == 0 and f"femur {command} " in result.stdout, command


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
    assert_refused(run("sample", *common), "checkpoint")
    trained = run(*common, "--config.sample.per_label=2")
    assert trained.returncode == 0, trained.stderr
    # The run directory is enough, and what is free may change.
    for command in (["sample", workdir, "--config.sample.per_label", 6], ["evaluate", workdir]):
        result = run(*command)
        assert result.returncode == 0, result.stderr
    synthetic = RadiographDataset(workdir / "synthetic")
    assert [e.label for e in synthetic.entries] == ["NFF"] * 6 + ["AFF"] * 6
    assert synthetic.provenance["model"] == "gan"
    assert synthetic.provenance["checkpoint"] == 3
    assert {"dataset", "trained_on"} <= synthetic.provenance.keys()
    assert "KID" in result.stdout
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    assert evaluation["patches"]["fid"] > 0
    assert [row["label"] for row in evaluation["distances"]] == ["both"]
    refused = run("train", workdir, "--config.train.learning-rate=(1.0,1.0)")
    assert_refused(refused, "another config", "learning_rate", "--workdir")
