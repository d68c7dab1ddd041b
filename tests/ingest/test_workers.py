"""Worker processes under jobs that really crash, hang or exhaust them."""

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest

from femur_jax.errors import UserError
from femur_jax.ingest.workers import run_in_workers

MIB = 1 << 20


class Odd(BaseException):
    """An exception that cannot be pickled, worse than those of decoders."""

    def __reduce__(self):
        raise TypeError("cannot travel between processes")


def _job(what: str) -> str:
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "segmentation fault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit at once":
        os._exit(0)
    if what == "SystemExit":
        raise SystemExit(0)
    if what == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if what == "Odd":
        raise Odd
    if what == "sleep":
        time.sleep(60)
    if what == "allocate":
        return str(len(bytearray(400 * MIB)))
    return what.upper()


EXPECTED = {
    "first": "FIRST",
    "killed": "crashed",
    "a": "A",
    "SystemExit": "crashed",
    "KeyboardInterrupt": "crashed",
    "b": "B",
    "sleep": "timeout",
    "allocate": "memory",
    "c": "C",
    "Odd": "crashed",
    "segmentation fault": "crashed",
    "last": "LAST",
}


def test_a_bad_job_costs_itself_alone():
    results = run_in_workers(_job, list(EXPECTED), workers=2, memory=200 * MIB, seconds=1.5)
    assert list(results) == list(EXPECTED.values())


def _sleep_less(job: int) -> int:
    time.sleep(0.4 / (job + 1))
    return job


def test_results_come_in_the_order_of_the_jobs():
    assert list(
        run_in_workers(_sleep_less, range(8), workers=3, memory=200 * MIB, seconds=9.0)
    ) == [*range(8)]


def test_memory_is_that_of_the_job_itself():
    """Imports and memory that earlier jobs returned do not count."""
    assert list(
        run_in_workers(_allocate, [15, 25, 15, 15], workers=1, memory=20 * MIB, seconds=9.0)
    ) == [
        15 * MIB,
        "memory",
        15 * MIB,
        15 * MIB,
    ]


def _allocate(mebibytes: int) -> int:
    return len(bytearray(mebibytes * MIB))


def test_a_clock_that_is_set_forward_costs_no_job(monkeypatch):
    clock = time.time
    results = run_in_workers(_sleep_less, range(3), workers=1, memory=200 * MIB, seconds=30.0)
    assert next(results) == 0
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)
    assert list(results) == [1, 2]


def test_no_jobs_give_no_results():
    assert list(run_in_workers(_job, [], workers=2, memory=MIB, seconds=1.0)) == []


def test_an_inherited_limit_is_kept():
    """A cluster may set such a limit."""
    script = (
        "from tests.ingest.test_workers import _allocate, run_in_workers\n"
        "jobs = [10, 9000, 10]\n"
        "print(list(run_in_workers(_allocate, jobs, workers=1, memory=20 << 30, seconds=30.0)))"
    )
    command = ["bash", "-c", f"ulimit -v {6 << 20}; exec {sys.executable} -c '{script}'"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout == f"[{10 * MIB}, 'memory', {10 * MIB}]\n", run.stderr


def _sleep_forever(pid_file: Path) -> None:
    pid_file.write_text(str(os.getpid()))
    while True:
        time.sleep(1)


ORPHANS = """
import sys
from pathlib import Path
from femur_jax.ingest.workers import run_in_workers
from tests.ingest.test_workers import _sleep_forever
list(run_in_workers(_sleep_forever, [Path(sys.argv[1])], workers=2, memory=1 << 28, seconds=2.0))
"""


def test_orphaned_workers_end(tmp_path):
    """After its parent is killed, an idle worker ends at once, a busy one after its job's time."""
    pid = tmp_path / "pid"
    command = [sys.executable, "-c", ORPHANS, pid]
    parent = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 30
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert int(pid.read_text()) in [process.pid for process in family]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while not all(_has_ended(process) for process in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, also where no init process reaps zombies."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_users_error_is_raised():
    with pytest.raises(UserError, match="make room"):
        list(run_in_workers(_fail, [1], workers=1, memory=200 * MIB, seconds=30.0))


def _fail(_: int) -> None:
    raise UserError("make room")


def _warn_and_log(secret: str) -> str:
    warnings.warn(secret, stacklevel=1)
    logging.getLogger("pydicom").critical(secret)
    return secret


def test_warnings_and_logs_of_libraries_are_not_shown(capfd):
    assert list(
        run_in_workers(_warn_and_log, ["CANARY"], workers=1, memory=200 * MIB, seconds=30.0)
    ) == ["CANARY"]
    assert "CANARY" not in "".join(capfd.readouterr())


CANNOT_START = """
from femur_jax.ingest.workers import run_in_workers
from femur_jax.errors import UserError
def unknown_there(job): return job
try:
    list(run_in_workers(unknown_there, [1, 2], workers=2, memory=1 << 28, seconds=30.0))
except UserError as error:
    print(error)
"""


def test_processes_that_cannot_start_are_reported():
    """The processes cannot start here because they do not find their function."""
    command = [sys.executable, "-c", CANNOT_START]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60)
    assert "cannot start" in run.stdout


def test_workers_end_with_their_consumer():
    results = run_in_workers(_job, ["first", "sleep"], workers=1, memory=200 * MIB, seconds=30.0)
    assert next(results) == "FIRST"
    workers = psutil.Process().children()
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 10
    assert any(_has_ended(process) for process in workers)  # all but the resource tracker


def test_many_crashes_in_a_row():
    jobs = ["killed", "killed", "killed", "x", "killed", "y"]
    expected = ["crashed", "crashed", "crashed", "X", "crashed", "Y"]
    assert list(run_in_workers(_job, jobs, workers=2, memory=200 * MIB, seconds=9.0)) == expected
