"""The demo as a newcomer runs it."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.machine import ROOT, cpu
from benchmarks.records import Goal, Result, measurement
from femur_jax.errors import UserError


@measurement("s", Goal("<=", 900.0))
def demo_seconds() -> Result:
    """Wall time of `make demo` in a fresh clone with an empty home folder.

    The time runs from the clone of the last commit to the report and includes the environment,
    with the download of all packages, and every stage of the study on simulated patients.
    """
    with tempfile.TemporaryDirectory() as folder:
        clone, home = Path(folder) / "clone", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"],
            check=True,
            capture_output=True,
            text=True,
        )
        # Variables of the outer make would change the inner one.
        outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ONLY")
        environment = {name: value for name, value in os.environ.items() if name not in outer}
        start_time = time.monotonic()
        demo = subprocess.run(
            ["make", "demo"], cwd=clone, env=environment | {"HOME": str(home)}, check=False
        )
        seconds = time.monotonic() - start_time
        if demo.returncode:
            raise UserError("`make demo` failed in a fresh clone; the lines above say why.")
        files = (clone / "runs" / "demo" / "finished").iterdir()
        stages = {file.name: json.loads(file.read_text()) for file in files}
    return Result(
        value=seconds,
        device=cpu(),
        details={
            "commit": commit.stdout.strip(),
            "seconds by stage": stages,
            "seconds of the rest (environment, start)": seconds - sum(stages.values()),
        },
    )
