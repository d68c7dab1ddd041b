"""Which part of a radiograph shows the patient.

Beyond the collimator's edge nothing was exposed, so with bone bright it is bright, often the
brightest of all: a band along a side of the picture that says nothing of the patient and much of
the machine. Bands are looked for along the four sides only; a collimator that was turned against
the detector is left as it is.
"""

import numpy as np
from jaxtyping import Bool, Float32, UInt16

from femur_jax.data.radiograph import Box

_SIDE = 512
"""Longest side of the smaller picture in which edges are looked for, pixels, about."""
_LEAST_SIDE = 32
"""Shortest side of that picture; there must be some left between two bands."""
_REACH = 0.35
"""Greatest share of a side that a band may take."""
_STEP = 0.04
"""Least rise across an edge, of the range of grey values."""
_STRAIGHT = 0.75
"""Least share of an edge's length over which it rises, but for bands along other sides."""
_MOST_OTHER = 0.7
"""Greatest share of an edge's length that bands along other sides may take."""
_BRIGHT = 0.6
"""Least share of a band that is as bright as the brightest pixels, but for 15% of the range."""


def crop_box(
    grey: UInt16[np.ndarray, "height width"],
    hidden: Bool[np.ndarray, "height width"] | None = None,
) -> Box:
    """Finds the part inside padding, shutters and the collimator's bright bands.

    Args:
        grey: Grey values, bone bright.
        hidden: Padding and what shutters hide.

    Returns:
        The part to be used, all if there are no bands; it loses up to three pixels of the
        smaller picture in which bands are looked for.
    """
    box = _within(hidden) if hidden is not None else Box(0, 0, *grey.shape)
    scale = max(1, round(max(box.height, box.width) / _SIDE))
    height, width = box.height // scale, box.width // scale
    if min(height, width) < _LEAST_SIDE:
        return box
    inside = grey[box.top :, box.left :][: height * scale, : width * scale]
    rows = inside.reshape(height, scale, -1).sum(1, dtype=np.float32)
    small = rows.reshape(height, width, scale) @ np.ones(scale, np.float32)
    low, high = (float(value) for value in np.percentile(small[::3, ::3], [1, 99.5]))
    bands = [_band(np.rot90(small, turns), low, high) for turns in range(4)]
    # Two pixels more: the edge itself is blurred.
    left, top, right, bottom = (band + 2 if band else 0 for band in bands)
    return Box(
        box.top + scale * top,
        box.left + scale * left,
        scale * (height - bottom - top) if bottom else box.height - scale * top,
        scale * (width - right - left) if right else box.width - scale * left,
    )


def _within(hidden: Bool[np.ndarray, "height width"]) -> Box:
    """The least box around what is not hidden."""
    rows, columns = np.flatnonzero(~hidden.all(1)), np.flatnonzero(~hidden.all(0))
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def _band(picture: Float32[np.ndarray, "height width"], low: float, high: float) -> int:
    """Width of the bright band along the left side of a picture with that range, 0 for none."""
    last = int(_REACH * picture.shape[1])
    outside = picture[:, : last + 2]
    rise = outside[:, :-2] - outside[:, 2:] > _STEP * (high - low)  # across column x + 1, outwards
    bright = outside > high - 0.15 * (high - low)
    # Bands along the two other sides are bright across both ends of the edge.
    across = bright[:, :-2] & bright[:, 2:]
    other = sum(np.logical_and.accumulate(ends).mean(0) for ends in (across, across[::-1]))
    straight = (rise.mean(0) >= _STRAIGHT * (1 - other)) & (other <= _MOST_OTHER)
    band = np.cumsum(bright.mean(0))[:last] / np.arange(1, last + 1)
    # The edge lies at x + 1; columns 0 .. x are the band.
    found = np.flatnonzero(straight & (band >= _BRIGHT))
    return int(found[-1]) + 1 if len(found) else 0
