"""Traced edges against drawn ones, and breaks against planted ones."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from femur_jax.evaluation.shaft import trace_shaft


def drawn(left, right, shape, noise=1500.0):
    """A bright bone between two columns in each row, in a leg with black beside it."""
    rng = np.random.default_rng(0)
    column = np.arange(shape[1])
    image = np.where(abs(column - shape[1] / 2) < 0.45 * shape[1], 22000.0, 500.0)
    image = np.broadcast_to(image, shape).copy()
    image[(column >= left[:, None]) & (column <= right[:, None])] = 38000.0
    image = gaussian_filter(image, 0.7) + noise * rng.standard_normal(shape)
    return np.clip(image, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("shape", [(120, 61), (500, 260)])
def test_edges_of_a_leaning_bone(shape):
    height, width = shape
    rows = np.arange(height)
    left = 0.3 * width + 0.2 * width * rows / height
    right = left + 0.2 * width * (1 + 0.2 * np.sin(6 * rows / height))
    shaft = trace_shaft(drawn(left, right, shape))
    assert abs(shaft.left - left).max() <= 2
    assert abs(shaft.right - right).max() <= 2
    assert np.median(abs(shaft.left - left)) <= 0.8
    assert shaft.breaks(4) == 0
    assert shaft.contrast.min() > 1


@pytest.mark.parametrize("shape", [(120, 61), (500, 260)])
def test_a_shifted_half_is_one_break(shape):
    height, width = shape
    image = drawn(np.full(height, 0.4 * width), np.full(height, 0.6 * width), shape)
    shaft = trace_shaft(image)
    assert shaft.breaks(4) == 0
    image[height // 2 :] = np.roll(image[height // 2 :], 6, axis=1)
    shaft = trace_shaft(image)
    jumps = np.flatnonzero(abs(np.diff(shaft.left)) >= 2)
    assert np.all(abs(jumps - height // 2) <= 3)
    assert 2 / (height - 3) <= shaft.breaks(4) <= 4 / (height - 3)
    assert shaft.left[-1] - shaft.left[0] == pytest.approx(6, abs=1)


def test_no_bone_has_no_contrast():
    rng = np.random.default_rng(1)
    image = (22000 + 1500 * rng.standard_normal((120, 61))).astype(np.uint16)
    rows = np.full(120, 24.0)
    assert trace_shaft(image).contrast.mean() < 0.6 * (
        trace_shaft(drawn(rows, rows + 14, (120, 61))).contrast.mean()
    )
