"""Progress in a log, as text without redraws, and on a terminal."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

SCRIPT = """
from femur_jax import progress

progress._SECONDS_BETWEEN_LINES = progress._SECONDS_BEFORE_A_BAR = 0.0
with progress.Progress(desc="train", total=4, initial=1, unit="step") as bar:
    for loss in ("0.5", "0.4", "0.3"):
        bar.set_postfix({"loss": loss}, False)
        bar.update(1)
list(progress.Progress(range(3), "quiet", disable=True))
"""
COMMAND = [sys.executable, "-c", SCRIPT]
ROOT = Path(__file__).parents[1]


def test_a_log_gets_one_line_at_a_time():
    result = subprocess.run(COMMAND, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "\r" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "loss" in line]
    assert [line.split(", ")[0] for line in lines] == [
        "train: 2 of 4",
        "train: 3 of 4",
        "train: 4 of 4",
    ]
    assert all(" step/s" in line and " left" in line for line in lines)
    assert [line.split("loss=")[1] for line in lines] == ["0.5", "0.4", "0.3"]
    assert "quiet" not in result.stderr


def test_a_terminal_gets_a_bar():
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    subprocess.run(COMMAND, stderr=writer, cwd=ROOT, check=True)
    os.close(writer)
    shown = b""
    while chunk := _read(reader):
        shown += chunk
    os.close(reader)
    assert b"\r" in shown and b"4/4" in shown and b"quiet" not in shown


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 4096)
    except OSError:  # the other end is closed
        return b""
