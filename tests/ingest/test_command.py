import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from femur_jax.ingest.pipeline import Limits, Summary
from femur_jax.main import main

SCRIPT = Path(__file__).parents[2] / "tools" / "preprocess.py"


def _run(*arguments):
    command = [sys.executable, SCRIPT, *arguments]
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def preprocess(monkeypatch):
    """Runs the command in this process, which saves its start; gives the exit code."""

    def run(*arguments, **names):
        for name, value in names.items():
            monkeypatch.setattr(f"femur_jax.commands.ingest.{name}", value)
        return main(["ingest", *arguments])

    return run


@pytest.fixture
def cohort(tmp_path):
    """Four patients, two of each label, and the arguments that make a dataset of them.

    No message may quote the names of the folder and the table.
    """
    (tmp_path / "CANARY").mkdir()
    lines = ["path,patient_id,hospital,label"]
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 65536, (20, 30), np.uint16)
        Image.fromarray(pixels).save(tmp_path / "CANARY" / f"{n}.png")
        lines.append(f"{n}.png,p{n},h,{('AFF', 'NFF')[n % 2]}")
    (tmp_path / "CANARY.csv").write_text("\n".join(lines))
    return [
        f"--dicom={tmp_path / 'CANARY'}",
        f"--labels={tmp_path / 'CANARY.csv'}",
        f"--out={tmp_path / 'dataset'}",
        "--patch=16",
        "--workers=1",
        "--fractions",
        "0",
        "0",
    ]


def test_help():
    run = _run("--help")
    assert run.returncode == 0
    for flag in ("--max_quarantined", "--memory", "--timeout"):
        assert flag in run.stdout
    assert run.stderr == ""


def test_success_prints_the_counts(cohort, tmp_path):
    run = _run(*cohort)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "4 files = 4 accepted + 0 quarantined + 0 duplicates\n"
    assert (tmp_path / "dataset" / "dataset.json").is_file()
    assert (tmp_path / "dataset.key").stat().st_mode & 0o777 == 0o600


def test_unusable_files_and_duplicates_are_counted(cohort, preprocess, capsys, tmp_path):
    (tmp_path / "CANARY" / "broken.png").write_text("text")
    again = (tmp_path / "CANARY" / "1.png").read_bytes()
    (tmp_path / "CANARY" / "again.png").write_bytes(again)
    with (tmp_path / "CANARY.csv").open("a") as file:
        file.write("\nagain.png,p1,h,NFF\nbroken.png,p0,h,AFF\n")
    assert preprocess(*cohort, "--max_quarantined=0.2", "--memory=0.5", "--timeout=60") == 0
    assert capsys.readouterr().out == "6 files = 4 accepted + 1 quarantined + 1 duplicates\n"


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ("labels", "no label table"),
        ("file", "1 of 4 files cannot be used"),
        ("label", "line 2: the label is neither AFF nor NFF"),
        ("--memory=0", "limits of memory and time"),
        ("--timeout=0", "limits of memory and time"),
        ("--max_quarantined=2", "share of unusable files is 2.0"),
        ("folder", "no folder of radiographs"),
        ("empty", "folder of radiographs is empty"),
        ("--lables=CANARY", "--lables is not an option"),
        ("CANARY", "too many arguments"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    cohort, preprocess, capsys, tmp_path, mistake, named
):
    if mistake == "labels":
        (tmp_path / "CANARY.csv").unlink()
    elif mistake == "file":
        (tmp_path / "CANARY" / "2.png").write_text("text")
    elif mistake == "label":
        text = (tmp_path / "CANARY.csv").read_text()
        (tmp_path / "CANARY.csv").write_text(text.replace("AFF", "CANARY"))
    elif mistake == "folder":
        shutil.rmtree(tmp_path / "CANARY")
    elif mistake == "empty":
        for path in (tmp_path / "CANARY").iterdir():
            path.unlink()
    else:
        cohort.insert(0, mistake)
    assert preprocess(*cohort) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("femur_jax: ") and named in line
    assert "CANARY" not in line and line.endswith(".")
    assert not (tmp_path / "dataset").exists()


def test_a_mistake_ends_the_script_with_code_2(tmp_path):
    run = _run(f"--dicom={tmp_path}", f"--labels={tmp_path}", f"--out={tmp_path / 'dataset'}")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("femur_jax: ") and run.stderr.count("\n") == 1


def test_limits_are_given_in_gib_and_seconds(cohort, preprocess):
    given = []

    def ingest(*_, limits, **settings):
        given.append(limits)
        return Summary(0, 0, 0, 0)

    assert preprocess(*cohort, "--memory=0.5", "--timeout=7", ingest=ingest) == 0
    assert preprocess(*cohort, ingest=ingest) == 0
    assert given == [Limits(memory=2**29, seconds=7.0), Limits()]
