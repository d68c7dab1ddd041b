"""Processes for work on files that nobody can vouch for."""

import logging
import multiprocessing
import resource
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
        memory: What each may allocate beyond what it has at its start, bytes.
        seconds: What a job may take.

    Yields:
        The result of each job, in their order: 'timeout' for one that took too long, 'crashed'
        for one that ended its process.

    Raises:
        UserError: The processes cannot start.
    """
    # A fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = pebble.ProcessPool(workers, initializer=_limit, initargs=(memory,), context=context)
    try:
        futures = [pool.schedule(function, (job,), timeout=seconds) for job in jobs]
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


def _limit(memory: int) -> None:
    """In a worker, before its first job."""
    # What pydicom and tifffile warn of and log quotes header values.
    warnings.simplefilter("ignore")
    logging.disable()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + memory, most))
