"""Several processes as one run: how they start, stop together, and tell of failures."""

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src.distributed import global_state  # the only way to the key-value store
from jax.experimental import multihost_utils

from femur_jax.errors import UserError

PREEMPTED = os.EX_TEMPFAIL
"""Exit code of a run that was told to stop and saved everything: start it again."""

_HEARTBEAT_SECONDS = 30  # JAX's default of 100 leaves a cluster idle for longer than needed
_FAILURE = "femur_jax/failure"


class Preempted(Exception):
    """The run was told to stop, and everything it did is saved."""


class _Watch(threading.Thread):
    """Waits for a failure of any process. Collectives may never return, so nobody else could."""

    def __init__(self, client: Any):
        super().__init__(daemon=True)
        self._client, self._over = client, threading.Event()

    def run(self) -> None:
        while not self._over.wait(1.0):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # none so far
                sentence, code = json.loads(self._client.key_value_try_get(_FAILURE))
                if jax.process_index() == 0:
                    print(f"femur_jax: {sentence}", file=sys.stderr, flush=True)
                    time.sleep(3)  # the store lives in this process
                os._exit(code)

    def end(self) -> None:
        """Returns when it no longer uses the client: it must not outlive it."""
        self._over.set()
        self.join()


@contextlib.contextmanager
def together(*, logs: Path) -> Iterator[None]:
    """Runs its body as one of the processes of a SLURM step, or alone where there is no other.

    An exception in one process ends all of them with the same exit code, whatever they are doing,
    and the first one says why. After Preempted the exit code is PREEMPTED.

    Args:
        logs: Where all but the first process print to; a log is removed when all went well.
    """
    watch = None
    code = 0
    try:
        watch = _start()
        _print_to(logs)
        yield
    except Preempted:
        code = PREEMPTED
    except Exception as error:
        told = _as_user_error(error)
        if watch is None:
            if told is error:
                raise
            raise told from error
        if isinstance(told, UserError):
            _end_all(str(told), 2)
        traceback.print_exc()
        index, count = jax.process_index(), jax.process_count()
        [line] = traceback.format_exception_only(error)[-1:]
        _end_all(f"process {index} of {count} failed ({line.strip()[:200]}); see {logs}.", 1)
    if watch is not None:
        if jax.process_index() > 0:
            _log(logs).unlink(missing_ok=True)
        watch.end()
        jax.distributed.shutdown()
    if code:
        sys.exit(code)


def texts_of_all(text: str) -> list[str]:
    """The text of each process, in their order; all of them have to call this."""
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(own)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def _start(*, timeout_seconds: float = 300.0) -> _Watch | None:
    """Joins the processes of a SLURM step; does nothing for a process on its own.

    Where not all of them come, each ends with one sentence and exit code 2.

    Args:
        timeout_seconds: How long to wait for them.
    """
    count = int(os.environ.get("SLURM_NTASKS", 1))
    if count == 1 or "SLURM_STEP_NODELIST" not in os.environ:
        return None

    def give_up() -> None:
        print(
            f"femur_jax: not all of the {count} processes that SLURM announced came within "
            f"{timeout_seconds:g} s; start the command with srun, once for each task.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    # JAX's own time-out ends the process with a stack trace.
    timer = threading.Timer(timeout_seconds, give_up)
    timer.daemon = True
    timer.start()
    jax.distributed.initialize(
        initialization_timeout=int(timeout_seconds) + 60,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
    timer.cancel()
    watch = _Watch(global_state.client)
    watch.start()
    return watch


def _print_to(logs: Path) -> None:
    """Sends what processes other than the first print, and their traces, to files."""
    if jax.process_index() > 0:
        try:
            logs.mkdir(parents=True, exist_ok=True)
            with _log(logs).open("a") as file:
                os.dup2(file.fileno(), sys.stdout.fileno())
                os.dup2(file.fileno(), sys.stderr.fileno())
        except OSError as error:
            raise UserError(
                f"{logs} cannot be written ({error.strerror}); name another --workdir."
            ) from None


def _log(logs: Path) -> Path:
    return logs / f"process-{jax.process_index():05d}.log"


def _as_user_error(error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return UserError(f"The disk is full ({error.filename}); free some space and start again.")
    return error


def _end_all(sentence: str, code: int) -> NoReturn:
    # The first failure is told; a key that another process has set raises.
    assert global_state.client is not None
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        global_state.client.key_value_set(_FAILURE, json.dumps([sentence, code]))
    time.sleep(10)  # the watch of each process, this one's too, ends it before
    os._exit(code)


class StopRequest:
    """Whether the run was told to stop by SIGTERM, the same in all processes.

    Within `with`, a SIGTERM only sets a flag. JAX catches the signal where there are several
    processes, and lets them agree on a step.
    """

    def __init__(self) -> None:
        self._told = False

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_: Any) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after each."""
        if jax.process_count() == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(step)
