"""Datasets to export, and external programs that check the result."""

import shutil

import numpy as np
import pytest

from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset

SYNTHETIC = {"kind": "synthetic", "model": "diffusion", "seed": 3, "checkpoint": 600}
REAL = {"kind": "real", "seed": 0, "fractions": [0.1, 0.2]}
SPACINGS = (("calibrated", 0.15), ("detector", 0.143), ("unknown", 0.0), ("unknown", 0.1))
VIEWS = ("AP", "lateral", "unknown")


def radiographs(kind: str, count: int, seed: int) -> list[Radiograph]:
    """Noisy waves with all values of view, laterality and spacing, two images per patient."""
    rng = np.random.default_rng(seed)
    result = []
    for n in range(count):
        y, x = np.mgrid[: 40 + n, : 30 + 2 * n]
        waves = 32000 + 30000 * np.sin(y / 7) * np.cos(x / 5) + rng.integers(0, 3500, y.shape)
        waves[0, :2] = 0, 65535
        source, spacing = SPACINGS[n % 4]
        result.append(
            Radiograph(
                pixels=waves.clip(0, 65535).astype(np.uint16),
                name=f"{kind}-{n}",
                label=("NFF", "AFF")[n % 2],
                patient=f"{kind}-patient-{n // 2}",
                hospital="somewhere",
                spacing_mm=spacing,
                spacing_source=source,
                view=VIEWS[n % 3],
                laterality=("L", "R", "unknown")[n % 3],
            )
        )
    return result


def write(folder, images, provenance) -> RadiographDataset:
    with DatasetWriter(folder, patch=32, provenance=provenance) as writer:
        for radiograph in images:
            writer.add(encode(radiograph, 32), "train")
    return RadiographDataset(folder)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> RadiographDataset:
    folder = tmp_path_factory.mktemp("export") / "synthetic"
    return write(folder, radiographs("synthetic", 12, seed=1), SYNTHETIC)


@pytest.fixture(scope="session")
def real(tmp_path_factory) -> RadiographDataset:
    folder = tmp_path_factory.mktemp("export") / "real"
    return write(folder, radiographs("real", 12, seed=2), REAL)


@pytest.fixture(scope="session")
def installed():
    """A function that returns a program's path, or skips the test if it is not installed."""

    def check(program: str, package: str) -> str:
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
        if path is None:
            pytest.skip(f"{program} is not installed (Debian package {package})")
        return path

    return check
