"""The area of a radiograph that shows the patient.

Outside the collimator's edge nothing is exposed, so where bone is bright this area is bright, often
the brightest of all: a band along a side of the picture that shows nothing of the patient but much
of the machine. Many machines and viewers paint it in one grey value instead, mostly black.

Bands and constant margins are searched along the four sides only. Of a collimator that is turned
against the detector, the rows and columns without any part of the field are left out; the triangles
at its corners remain, since a smaller rectangle would cost anatomy.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt16

from femur_jax.data.radiograph import Box

_SIDE = 512
"""Approximate longest side, in pixels, of the smaller picture in which edges are searched."""
_LEAST_SIDE = 32
"""Least length of that picture's shorter side; between two bands some of it must remain."""
_REACH = 0.35
"""Greatest share of a side that a band may take."""
_STEP = 0.04
"""Least rise across an edge, as a share of the range of grey values."""
_STRAIGHT = 0.75
"""Least share of an edge's length with a rise, not counting bands along other sides."""
_MOST_OTHER = 0.7
"""Greatest share of an edge's length that bands along other sides may take."""
_CONSTANT = 4 * 257
"""Greatest difference of grey values within constant margins: 4 of 255 levels, as in a JPEG."""
_ROWS = 16
"""Number of rows in which the search for constant margins proceeds."""
_BRIGHT = 0.6
"""Least share of a band's pixels within 15% of the range below the brightest ones."""


def crop_box(
    grey: UInt16[np.ndarray, "height width"],
    hidden: Bool[np.ndarray, "height width"] | None = None,
) -> Box:
    """Finds the area inside padding, shutters, constant margins and the collimator's bright bands.

    Args:
        grey: Grey values, bone bright.
        hidden: Mask of padding and of pixels behind shutters.

    Returns:
        The area that shows the patient, everything where there are no bands and margins. At a band
        it loses up to three pixels of the smaller picture in which bands are searched.
    """
    box = Box(0, 0, *grey.shape) if hidden is None else _within(hidden)
    box = _inside_margins(grey, box)
    inside_bands = _inside_bands(grey, box)
    return box if inside_bands == box else _inside_margins(grey, inside_bands)


def _inside_margins(grey: UInt16[np.ndarray, "height width"], box: Box) -> Box:
    """The part of a box without rows and columns at its sides that have one grey value."""
    for _ in range(2):  # columns of a turned field become constant when rows are left out
        inside = grey[box.slices]
        top, bottom = _constant_rows(inside), _constant_rows(inside[::-1])
        if top + bottom >= len(inside):
            return box
        rows = inside[top : len(inside) - bottom].T
        left, right = _constant_rows(rows), _constant_rows(rows[::-1])
        if left + right >= len(rows) or not any((top, bottom, left, right)):
            return box
        box = Box(
            box.top + top,
            box.left + left,
            box.height - top - bottom,
            box.width - left - right,
        )
    return box


def _constant_rows(picture: UInt16[np.ndarray, "height width"]) -> int:
    """Number of rows at a picture's top that have, together, one grey value."""
    least, greatest = 0xFFFF, 0
    for top in range(0, len(picture), _ROWS):
        rows = picture[top : top + _ROWS]
        low = np.minimum(np.minimum.accumulate(rows.min(1)), least).astype(int)
        high = np.maximum(np.maximum.accumulate(rows.max(1)), greatest).astype(int)
        varied = high - low > _CONSTANT
        if varied.any():
            return top + int(varied.argmax())
        least, greatest = low[-1], high[-1]
    return len(picture)


def _inside_bands(grey: UInt16[np.ndarray, "height width"], box: Box) -> Box:
    """The part of a box without bright bands along its sides."""
    scale = max(1, round(max(box.height, box.width) / _SIDE))
    height, width = box.height // scale, box.width // scale
    if min(height, width) < _LEAST_SIDE:
        return box
    inside = grey[box.top :, box.left :][: height * scale, : width * scale]
    rows = inside.reshape(height, scale, -1).sum(1, dtype=np.float32)
    small = rows.reshape(height, width, scale) @ np.ones(scale, np.float32)
    low, high = (float(value) for value in np.percentile(small[::3, ::3], [1, 99.5]))
    bands = [_band(np.rot90(small, turns), low, high) for turns in range(4)]
    # Two further pixels, since the edge itself is blurred.
    left, top, right, bottom = (band + 2 if band else 0 for band in bands)
    return Box(
        box.top + scale * top,
        box.left + scale * left,
        scale * (height - bottom - top) if bottom else box.height - scale * top,
        scale * (width - right - left) if right else box.width - scale * left,
    )


def _within(hidden: Bool[np.ndarray, "height width"]) -> Box:
    """The smallest box around all pixels that are not hidden."""
    rows, columns = np.flatnonzero(~hidden.all(1)), np.flatnonzero(~hidden.all(0))
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def _band(picture: Float32[np.ndarray, "height width"], low: float, high: float) -> int:
    """Width of the bright band at a picture's left side, 0 for none; grey is in `low`..`high`."""
    last = int(_REACH * picture.shape[1])
    outside = picture[:, : last + 2]
    rise = outside[:, :-2] - outside[:, 2:] > _STEP * (high - low)  # across column x + 1, outwards
    bright = outside > high - 0.15 * (high - low)
    # Bands along the upper and lower side are bright across both ends of the edge.
    across = bright[:, :-2] & bright[:, 2:]
    other = _share_from_top(across) + _share_from_top(across[::-1])
    straight = (rise.mean(0) >= _STRAIGHT * (1 - other)) & (other <= _MOST_OTHER)
    band = np.cumsum(bright.mean(0))[:last] / np.arange(1, last + 1)
    # The edge lies at x + 1; columns 0 .. x are the band.
    edges = np.flatnonzero(straight & (band >= _BRIGHT))
    return int(edges[-1]) + 1 if len(edges) else 0


def _share_from_top(bright: Bool[np.ndarray, "height width"]) -> Float64[np.ndarray, " width"]:
    """Share of each column that is bright from the top on without a gap."""
    columns = np.ascontiguousarray(bright.T)
    run = np.where(columns.all(1), len(bright), columns.argmin(1))
    return run / len(bright)
