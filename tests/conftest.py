"""Shared by all tests: run-time shape checks, eight fake devices, real radiographs where they lie."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

from jaxtyping import install_import_hook

hook = install_import_hook("femur_jax", "beartype.beartype")
hook.__enter__()  # stays on for the whole run: shapes in signatures are checked at each call

import pytest


@pytest.fixture(scope="session")
def real_radiographs() -> Path:
    """The folder of real radiographs, which is read in place and never copied."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "radiographs"
    if not folder.is_dir():
        pytest.skip(f"the real radiographs are not at {folder}")
    return folder
