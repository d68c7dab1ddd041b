"""Worker processes for files that cannot be trusted."""

import logging
import multiprocessing
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import pebble
import psutil

from femur_jax.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


def number_of_workers(wanted: int | None) -> int:
    """The number of processes, one per core where none is given.

    Raises:
        UserError: The number is below 1.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"The number of workers is {wanted}; give 1 or more.")
    return wanted or os.cpu_count() or 1


def run_in_workers(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    memory: int,
    seconds: float,
) -> Iterator[Result | str]:
    """Calls a function on every job in worker processes and survives any failure there.

    Args:
        function: Function at the top level of a module.
        jobs: Arguments of the calls.
        workers: Number of processes.
        memory: Bytes that a job may allocate.
        seconds: Time that a job may take.

    Yields:
        The result of each job in the order of the jobs: 'memory' or 'timeout' where a limit was
        exceeded, 'crashed' where the job raised an exception or ended its process.

    Raises:
        UserError: A job raised a UserError, or the processes cannot start.
    """
    # A forked copy of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    # The function is imported when a worker starts, so that the first job's time excludes it.
    pool = pebble.ProcessPool(workers, initializer=_start, initargs=(function,), context=context)
    try:
        futures = [pool.schedule(_run, (function, job, memory, seconds)) for job in jobs]
        for future in futures:
            try:
                yield future.result()
            except pebble.ProcessExpired as error:
                yield "timeout" if error.exitcode == -signal.SIGALRM else "crashed"
            except BrokenProcessPool as error:
                raise UserError(
                    "The worker processes cannot start, perhaps because memory is short; use fewer "
                    "workers, or free memory."
                ) from error
    finally:
        pool.stop()
        pool.join()


def _start(_: Callable) -> None:
    """Prepares a worker process before its first job."""
    # Warnings and log messages of pydicom and tifffile quote header values.
    warnings.simplefilter("ignore")
    logging.disable()


def _run(function: Callable[[Job], Result], job: Job, memory: int, seconds: float) -> Result | str:
    """Runs one job in a worker process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + memory
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    # Ends the worker whatever it is doing and whether its parent lives. Unlike pebble's time limit,
    # it does not follow the wall clock, which may be set forward.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(job)
    except UserError:
        raise
    except MemoryError:
        return "memory"
    except BaseException:  # decoders in other languages raise exceptions of any type
        return "crashed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
