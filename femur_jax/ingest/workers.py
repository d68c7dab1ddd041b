"""Processes for work on files that nobody can vouch for."""

import logging
import multiprocessing
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


def each(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    memory: int,
    seconds: float,
) -> Iterator[Result | str]:
    """Calls a function on every job in other processes, and survives whatever happens there.

    Args:
        function: Of a module's top level.
        jobs: Its arguments.
        workers: Number of processes.
        memory: What a job may allocate, bytes.
        seconds: What a job may take.

    Yields:
        The result of each job, in their order: 'memory' or 'timeout' for one that took too much,
        'crashed' for one that raised an exception or ended its process.

    Raises:
        UserError: A job raised it, or the processes cannot start.
    """
    # A fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    # A worker that is given the function at its start imports it then, not at a job's expense.
    pool = pebble.ProcessPool(workers, initializer=_start, initargs=(function,), context=context)
    try:
        futures = [
            pool.schedule(_run, (function, job, memory, seconds), timeout=seconds) for job in jobs
        ]
        for future in futures:
            try:
                yield future.result()
            except TimeoutError:
                yield "timeout"
            except pebble.ProcessExpired:
                yield "crashed"
            except BrokenProcessPool as error:
                raise UserError(
                    "The processes that read files cannot start, perhaps for want of memory; "
                    "use fewer workers, or free memory."
                ) from error
    finally:
        pool.stop()
        pool.join()


def _start(_: Callable) -> None:
    """In a worker, before its first job."""
    # What pydicom and tifffile warn of and log quotes header values.
    warnings.simplefilter("ignore")
    logging.disable()


def _run(function: Callable[[Job], Result], job: Job, memory: int, seconds: float) -> Result | str:
    """One job, in a worker process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + memory
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    # Ends the worker when its parent, which minds the time, was killed.
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
    try:
        return function(job)
    except UserError:
        raise
    except MemoryError:
        return "memory"
    except BaseException:  # decoders in other languages raise what they like
        return "crashed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
