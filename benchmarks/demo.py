"""The demo as a newcomer meets it."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.machine import cpu
from benchmarks.measurements import Found
from femur_jax.errors import UserError

_ROOT = Path(__file__).parents[1]


def in_fresh_clone() -> Found:
    """Runs `make demo` in a clone of the last commit; takes minutes.

    Raises:
        UserError: The demo failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        clone, home = Path(folder) / "clone", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"],
            check=True,
            capture_output=True,
            text=True,
        )
        # Variables that make set for itself would reach into the inner make.
        own = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ONLY")
        environment = {name: value for name, value in os.environ.items() if name not in own}
        begin = time.monotonic()
        demo = subprocess.run(
            ["make", "demo"], cwd=clone, env=environment | {"HOME": str(home)}, check=False
        )
        seconds = time.monotonic() - begin
        if demo.returncode:
            raise UserError("`make demo` failed in a fresh clone; its last lines above say why.")
        files = (clone / "runs" / "demo" / "finished").iterdir()
        stages = {file.name: json.loads(file.read_text()) for file in files}
    return Found(
        value=seconds,
        device=cpu(),
        details={
            "commit": commit.stdout.strip(),
            "seconds by stage": stages,
            "seconds of the rest (environment, start)": seconds - sum(stages.values()),
        },
    )
