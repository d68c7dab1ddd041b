"""A peer's script as a process of its own, idle between rounds."""

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.environment import peer_python

_PEERS = Path(__file__).parent / "peers"


class PeerProcess:
    """Answers, with a line of JSON each, to its start and to every line written to it."""

    def __init__(self, script: str, folder: Path):
        """Starts a script of benchmarks/peers on a folder of what is exchanged."""
        self._process = subprocess.Popen(
            [str(peer_python()), str(_PEERS / script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about: dict[str, Any] = self._answer()

    def seconds(self, steps: int) -> float:
        """Wall time that the peer took for some steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()

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
