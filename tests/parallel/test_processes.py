"""Tests of two processes as one run, started as by srun."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from femur_jax.training import loop
from femur_jax.training.monitor import read_scalars
from tests.environment import one_device
from tests.training.least_squares import KernelMean, LeastSquares, least_squares_config


def environment(rank, job):
    return one_device() | {
        "SLURM_JOB_ID": str(job),  # JAX derives the port from it
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "localhost",
    }


def run(folder, *fields, failing=-1):
    """Exit codes and stderr of two processes, each with its fields of the config."""
    script, job = str(Path(__file__).with_name("process.py")), os.getpid()
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(folder), json.dumps(changes), str(failing)],
            env=environment(rank, job),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, changes in enumerate(fields)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run directory and the last state of a run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, loop.train(LeastSquares(), least_squares_config(), folder, [KernelMean()])


def test_a_model_axis_over_processes_equals_one_process(alone, tmp_path):
    """Both processes hold the whole batch and half of the kernel."""
    folder, expected = alone
    fields = {"mesh.data": 1, "mesh.model": 2}
    codes, errors = run(tmp_path / "run", fields, fields)
    assert codes == [0, 0], errors
    lines, same = read_scalars(tmp_path / "run"), read_scalars(folder)
    for name in ("loss", "kernel/mean"):
        values, expected_values = (
            [line[name] for line in logged if name in line] for logged in (lines, same)
        )
        assert len(values) == 3
        np.testing.assert_allclose(values, expected_values, rtol=1e-5)
    overview = (tmp_path / "run" / "parameters.txt").read_text()
    assert "'model'" in overview  # the rule applies
    state = loop.restore(LeastSquares(), least_squares_config(), tmp_path / "run")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state, expected)


def test_different_configs_end_all_processes_with_one_message(tmp_path):
    codes, errors = run(tmp_path / "run", {"seed": 0}, {"seed": 1})
    assert codes == [2, 2], errors
    [line] = [line for line in errors[0].splitlines() if line.startswith("femur_jax: ")]
    assert "Process 1" in line
    assert "config.seed" in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_failure_ends_all_processes_and_its_log_is_kept(tmp_path):
    codes, errors = run(tmp_path / "run", {}, {}, failing=1)
    assert codes == [1, 1], errors
    [line] = [line for line in errors[0].splitlines() if line.startswith("femur_jax: ")]
    assert "process 1 of 2 failed (RuntimeError: the data are upside down)" in line
    log = (tmp_path / "run" / "logs" / "process-00001.log").read_text()
    assert "Traceback" in log
    assert "upside down" in log


def test_a_process_reports_that_others_do_not_start(tmp_path):
    code = "from femur_jax.parallel import distributed; distributed._start(timeout_seconds=1.0)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(0, os.getpid()),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("femur_jax: not all of the 2 processes")
