"""Peers that femur_jax is measured against, each in a process with its own virtual environment."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT
from femur_jax.errors import UserError

FOLDER = ROOT / ".bench-venv"
"""The peers' virtual environment, so that femur_jax's stays without PyTorch."""

_REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"


def peer_command(script: str, *arguments: object) -> list[str]:
    """The command of a script of benchmarks/peers.

    The virtual environment is created if it is missing or its requirements have changed.

    Raises:
        UserError: The packages cannot be installed.
    """
    python, installed = FOLDER / "bin" / "python", FOLDER / "installed.txt"
    required = _REQUIREMENTS.read_text()
    if not installed.is_file() or installed.read_text() != required:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "-r", str(_REQUIREMENTS)], check=False).returncode:
            raise UserError(f"The packages of {_REQUIREMENTS} cannot be installed; see pip above.")
        installed.write_text(required)
    return [str(python), str(ROOT / "benchmarks" / "peers" / script), *map(str, arguments)]


class PeerProcess:
    """A peer's script in a separate process, idle between rounds.

    The script writes one line of JSON when it is ready, and one for each line that it reads.

    Attributes:
        about: The script's first line, which describes it.
    """

    def __init__(self, script: str, *arguments: object):
        """Starts a script of benchmarks/peers."""
        self._process = subprocess.Popen(
            peer_command(script, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about: dict[str, Any] = self._answer()

    def ask(self, line: object) -> Any:
        """The script's answer to a line."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def seconds(self, steps: int) -> float:
        """Wall time that a script that trains took for some steps."""
        return self.ask(steps)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The peer's process has ended; its traceback is above.")
        return json.loads(line)

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def channels_second(array: Any) -> np.ndarray:
    """Images as PyTorch lays them out; other arrays as they are."""
    return np.moveaxis(array, -1, 1) if np.ndim(array) == 4 else np.asarray(array)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays to an npz file, which the peer reads."""
    np.savez(path, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})


def largest_difference(expected: Mapping[str, np.ndarray], file: Path) -> float:
    """Largest difference of the arrays in a peer's npz file from the expected ones.

    Differences are relative to the largest value of each array.
    """
    with np.load(file) as answers:
        assert answers.keys() == expected.keys()
        return max(
            float(np.abs(answers[name] - value).max() / np.abs(value).max())
            for name, value in expected.items()
        )
