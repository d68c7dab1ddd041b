"""Whether stored values form a picture as the header states them, judged by their smoothness.

Neighbouring pixels of a radiograph are alike. They are not where Rows and Columns are exchanged, or
where unsigned values are read as signed ones or the reverse, so that the upper half of them wraps.
docs/decisions.md has the measurements.
"""

import numpy as np
from jaxtyping import Integer, UInt

_ROWS = 256
"""Number of rows that are compared."""
_MOST_JUMPS = 4.0
"""Jumps over most of the range that a row may have on average, as at the edges of a field."""
_JUMPS, _ROUGHER = 10.0, 2.0
"""Ratios to the other reading, in jumps and in roughness, above which the stated one is wrong."""


def is_smooth(stored: Integer[np.ndarray, "height width"], bits: int) -> bool:
    """Whether no other reading of the same values is far smoother.

    Args:
        stored: Stored values as the header states them, signed or unsigned.
        bits: Number of stored bits.
    """
    return _has_its_sides(stored) and _has_its_sign(stored, bits)


def _has_its_sides(stored: Integer[np.ndarray, "height width"]) -> bool:
    height, width = stored.shape
    if height == width or min(height, width) < 2:
        return True
    return _roughness(stored) <= _ROUGHER * _roughness(stored.reshape(width, height))


def _roughness(values: Integer[np.ndarray, "height width"]) -> float:
    """Mean difference between a pixel and the one below."""
    rows = _some_rows(len(values) - 1)
    return float(_distance(values[rows + 1], values[rows]).mean())


def _has_its_sign(stored: Integer[np.ndarray, "height width"], bits: int) -> bool:
    values = stored[_some_rows(len(stored))]
    half, whole = 1 << (bits - 1), 1 << bits
    jumps = _jumps(values, whole)
    if jumps <= _MOST_JUMPS:
        return True
    values = values.astype(np.int32)
    other = np.where(values < 0, values + whole, np.where(values >= half, values - whole, values))
    return jumps <= _JUMPS * _jumps(other, whole)


def _jumps(values: Integer[np.ndarray, "height width"], whole: int) -> float:
    """Mean number of neighbours in a row that differ by more than three quarters of the range."""
    jumps = _distance(values[:, 1:], values[:, :-1]) > 0.75 * whole
    return float(np.count_nonzero(jumps) / len(values))


def _distance(
    a: Integer[np.ndarray, "height width"], b: Integer[np.ndarray, "height width"]
) -> UInt[np.ndarray, "height width"]:
    """Absolute difference in the same number of bytes, which a sign would exceed."""
    return (np.maximum(a, b) - np.minimum(a, b)).view(f"u{a.itemsize}")


def _some_rows(number: int) -> Integer[np.ndarray, "rows"]:
    return np.unique(np.linspace(0, number - 1, _ROWS).astype(np.intp))
