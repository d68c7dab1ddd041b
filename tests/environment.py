"""The environment of processes that tests start."""

import os
from pathlib import Path

QUICK = (
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
"""Flags of XLA for functions that run for milliseconds: without costly optimisation, and with the
older generator of fused loops, which compiles in half of the time."""


def one_device() -> dict[str, str]:
    """The environment of a process with one device, whose functions compile quickly."""
    root = Path(__file__).parents[1]
    return os.environ | {"XLA_FLAGS": QUICK, "PYTHONPATH": str(root)}
