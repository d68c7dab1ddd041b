"""The machine that measurements run on (Linux)."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from femur_jax.errors import UserError

ROOT = Path(__file__).parents[1]
"""The repository's root folder."""

_TOLERATED = 0.1  # of all cores
_OBSERVED_SECONDS = 2.0


def cpu() -> str:
    """The processor's name and its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'processor'}, {os.cpu_count()} cores"


def has_gpu() -> bool:
    """Whether JAX finds a GPU."""
    import jax  # here, since processes whose memory is measured import this module

    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:  # unknown backend
        return False


def device_name(platform: str) -> str:
    """Name of the processor for "cpu", of the first GPU for "gpu"."""
    import jax

    return cpu() if platform == "cpu" else jax.devices(platform)[0].device_kind


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Wall time of a call."""
    start_time = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start_time


def require_idle() -> None:
    """Watches the processor for a moment, in which nothing should run.

    Other work does not slow all peers alike: threads that wait for each other at barriers, as
    PyTorch's do, lose several times more than others.

    Raises:
        UserError: The processor is busy.
    """
    before = _ticks()
    time.sleep(_OBSERVED_SECONDS)
    share = busy_share(before, _ticks())
    if share > _TOLERATED:
        raise UserError(
            f"Other work takes {share:.0%} of the processor, which would distort the measurement; "
            "stop it, or measure again later."
        )


def busy_share(before: list[int], after: list[int]) -> float:
    """Share of the processor's time that was not idle, from two `cpu` rows of /proc/stat."""
    passed = [b - a for a, b in zip(before, after, strict=True)]
    idle = passed[3] + passed[4]  # idle and iowait; see proc(5)
    return 1 - idle / max(sum(passed), 1)


def _ticks() -> list[int]:
    row = Path("/proc/stat").read_text().partition("\n")[0]
    return [int(field) for field in row.split()[1:9]]  # guest time is part of user time
