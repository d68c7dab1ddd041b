import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "tools" / "preprocess.py"


def _run(*arguments):
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])


@pytest.fixture
def cohort(tmp_path):
    """Four patients, two of each label, and the arguments that make a dataset of them."""
    (tmp_path / "images").mkdir()
    lines = ["path,patient_id,hospital,label"]
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 65536, (20, 30), np.uint16)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{n}.png")
        lines.append(f"{n}.png,p{n},h,{('AFF', 'NFF')[n % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return [
        f"--dicom={tmp_path / 'images'}",
        f"--labels={tmp_path / 'labels.csv'}",
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
    assert "--max_rejected" in run.stdout
    assert run.stderr == ""


def test_success_prints_the_counts(cohort, tmp_path):
    run = _run(*cohort)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "4 files = 4 accepted + 0 rejected + 0 duplicates\n"
    assert (tmp_path / "dataset" / "dataset.json").is_file()
    assert (tmp_path / "dataset.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mistake", ["labels", "file", "label"])
def test_a_mistake_is_one_line_and_exit_code_2(cohort, tmp_path, mistake):
    if mistake == "labels":
        (tmp_path / "labels.csv").unlink()
        named = "no label table"
    elif mistake == "file":
        (tmp_path / "images" / "2.png").write_text("text")
        named = "2.png"
    else:
        text = (tmp_path / "labels.csv").read_text()
        (tmp_path / "labels.csv").write_text(text.replace("AFF", "atypical"))
        named = "line 2: the label is 'atypical'"
    run = _run(*cohort)
    assert run.returncode == 2
    assert run.stdout == ""
    [line] = run.stderr.splitlines()
    assert line.startswith("preprocess: ") and named in line
    assert not (tmp_path / "dataset").exists()
