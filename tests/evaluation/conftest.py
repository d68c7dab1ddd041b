"""Drawn radiographs: a bone of any width, place, tilt and bow before smooth soft tissue."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

SIDE = 48


def drawn_radiographs(rng: np.random.Generator, n: int) -> np.ndarray:
    """Grey values of n x SIDE x SIDE pixels, each of another patient."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images = []
    for _ in range(n):
        tissue = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 5) + rng.uniform(1.0, 1.6)
        middle, tilt, bow = rng.normal(SIDE / 2, 4), rng.normal(0, 0.12), rng.normal(0, 3)
        height = rows / SIDE - 0.5
        off = abs(columns - middle - tilt * SIDE * height - bow * height**2)
        width = rng.uniform(5, 10) * (1 + rng.uniform(0, 1) * height**2)
        cortex = np.exp(-(((off - width) / rng.uniform(1, 2.5)) ** 2))
        line = np.exp(-((rows - rng.uniform(10, 38) - rng.normal(0, 0.6) * (columns - 24)) ** 2))
        bone = (1.0 * (off < width) + rng.uniform(0.6, 1.4) * cortex) * (1 - 0.7 * line)
        images.append(tissue + gaussian_filter(bone, 0.7) + 0.03 * rng.normal(size=off.shape))
    stack = np.stack(images)
    return np.round(np.clip(stack / 5, 0, 1) * 65535).astype(np.uint16)


@pytest.fixture(scope="session")
def pictures():
    """Drawn radiographs by split."""
    drawn = drawn_radiographs(np.random.default_rng(0), 600)
    return {"train": drawn[:200], "validation": drawn[200:400], "test": drawn[400:]}
