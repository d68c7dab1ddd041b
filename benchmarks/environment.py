"""The peers' own virtual environment, so that femur_jax's stays without them."""

import subprocess
import sys
from pathlib import Path

from femur_jax.errors import UserError

_ROOT = Path(__file__).parents[1]
_FOLDER = _ROOT / ".bench-venv"
_REQUIREMENTS = _ROOT / "benchmarks" / "requirements-peers.txt"


def peer_python() -> Path:
    """Its interpreter; it is made first where it is missing or its requirements have changed.

    Raises:
        UserError: The packages cannot be installed.
    """
    python, installed = _FOLDER / "bin" / "python", _FOLDER / "installed.txt"
    wanted = _REQUIREMENTS.read_text()
    if not installed.is_file() or installed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(_FOLDER)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "-r", str(_REQUIREMENTS)], check=False).returncode:
            raise UserError(f"The packages of {_REQUIREMENTS} cannot be installed; see pip above.")
        installed.write_text(wanted)
    return python
