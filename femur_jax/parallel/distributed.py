"""Several processes as one run: they start and stop together, and report failures."""

import contextlib
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
from jax._src.distributed import global_state  # JAX has no public access to the key-value store
from jax.experimental import multihost_utils

from femur_jax.errors import UserError
from femur_jax.files import as_user_error

PREEMPTED = os.EX_TEMPFAIL
"""Exit code of a run that stopped on request and saved its state: start it again to resume."""

_HEARTBEAT_SECONDS = 30  # JAX's default of 100 leaves a cluster idle for longer than needed
_FAILURE = "femur_jax/failure"


class Preempted(Exception):
    """The run was requested to stop, and its state is saved."""


class _Watch(threading.Thread):
    """A thread that ends this process after a failure of any process.

    The main thread cannot do this, because it may wait for ever in a collective.
    """

    def __init__(self, client: Any):
        super().__init__(daemon=True)
        self._client, self._over = client, threading.Event()

    def run(self) -> None:
        while not self._over.wait(1.0):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # no failure so far
                message, code = json.loads(self._client.key_value_try_get(_FAILURE))
                if jax.process_index() == 0:
                    print(f"femur_jax: {message}", file=sys.stderr, flush=True)
                    time.sleep(3)  # the other processes still read the store of this process
                os._exit(code)

    def end(self) -> None:
        """Stops the thread and waits for it, because it must not outlive the client."""
        self._over.set()
        self.join()


@contextlib.contextmanager
def together(*, logs: Path) -> Iterator[None]:
    """Runs the body as one of the processes of a SLURM step, or alone if there is only one.

    An exception in one process ends all of them with the same exit code, whatever they are doing,
    and the first process reports the reason. After Preempted the exit code is PREEMPTED.

    Args:
        logs: Folder of the logs to which all but the first process print. A log is removed if the
            run succeeds.
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
        reported = as_user_error(error)
        if watch is None:
            if reported is error:
                raise
            raise reported from error
        if isinstance(reported, UserError):
            _end_all(str(reported), 2)
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
    """The texts of all processes, in their order; all processes have to call this."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(encoded)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def _start(*, timeout_seconds: float = 300.0) -> _Watch | None:
    """Joins the processes of a SLURM step; does nothing if there is only one process.

    If some processes do not start, the others end with an error message and exit code 2.

    Args:
        timeout_seconds: Time to wait for all processes.
    """
    count = int(os.environ.get("SLURM_NTASKS", 1))
    if count == 1 or "SLURM_STEP_NODELIST" not in os.environ:
        return None

    def give_up() -> None:
        print(
            f"femur_jax: not all of the {count} processes that SLURM announced started within "
            f"{timeout_seconds:g} s; start the command with srun, once for each task.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    # JAX's time-out ends the process with a stack trace instead of a message.
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
    """Redirects the output of all processes but the first to files."""
    if jax.process_index() > 0:
        try:
            logs.mkdir(parents=True, exist_ok=True)
            with _log(logs).open("a") as file:
                os.dup2(file.fileno(), sys.stdout.fileno())
                os.dup2(file.fileno(), sys.stderr.fileno())
        except OSError as error:
            raise UserError(
                f"{logs} cannot be written ({error.strerror}); choose another run directory."
            ) from None


def _log(logs: Path) -> Path:
    return logs / f"process-{jax.process_index():05d}.log"


def _end_all(message: str, code: int) -> NoReturn:
    """Ends all processes with a message, unless another process has failed before."""
    assert global_state.client is not None
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process has set the key
        global_state.client.key_value_set(_FAILURE, json.dumps([message, code]))
    time.sleep(10)  # the watch of each process, including this one, ends it earlier
    os._exit(code)


class StopRequest:
    """A request to stop the run by SIGTERM, on which all processes agree.

    In the body of `with`, SIGTERM only sets a flag. With several processes, JAX catches the signal
    and makes them agree on a step.
    """

    def __init__(self) -> None:
        self._received = False

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: Any) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; it has to be called after each step."""
        if jax.process_count() == 1:
            return self._received
        return multihost_utils.reached_preemption_sync_point(step)
