"""Whether bone is bright, as the pixels of a radiograph tell.

A limb lies in the middle of a picture and the air next to it at the borders, so the middle is
brighter than the borders where bone is bright, and darker in a negative. docs/decisions.md has the
error rates.
"""

import numpy as np
from jaxtyping import Float64, UInt16

from femur_jax.ingest.collimation import crop_box

POSITIVE, NEGATIVE, DOUBTFUL = "positive", "negative", "doubtful"
_SIDE = 256
"""Approximate longest side, in pixels, of the sample that is compared."""
_LEAST = 0.1
"""Least difference between the middle and the borders that tells, as a share of the grey range."""
_ALONG_LIMB = 0.5
"""Weight of the difference between top, middle and bottom; a hip or chest may be dark there."""


def polarity(grey: UInt16[np.ndarray, "height width"]) -> str:
    """Compares the middle of a recorded image with its borders.

    Returns:
        POSITIVE where bone is bright, NEGATIVE where black and white are exchanged, DOUBTFUL where
        the pixels do not tell. A picture and its negative get opposite answers.
    """
    step = max(1, max(grey.shape) // _SIDE)
    sample = grey[step // 2 :: step, step // 2 :: step]
    # Bright bands along the sides are the collimator's in a picture, but air in a negative.
    boxes = {crop_box(sample), crop_box(0xFFFF - sample)}
    differences = sorted((_middle_minus_borders(sample[box.slices]) for box in boxes), key=abs)
    weaker, stronger = differences[0], differences[-1]
    contradict = abs(weaker) >= _LEAST and weaker * stronger < 0
    if abs(stronger) < _LEAST or contradict:
        return DOUBTFUL
    return POSITIVE if stronger > 0 else NEGATIVE


def _middle_minus_borders(picture: UInt16[np.ndarray, "height width"]) -> float:
    """Mean grey value of the middle third minus that of the outer sixths, -1 to 1.

    Columns count fully and rows by half; the one with the greater difference decides.
    """
    if min(picture.shape) < 6:
        return 0.0
    low, high = np.percentile(picture, [0.5, 99.5])
    if low == high:
        return 0.0
    shown = np.clip((picture - low) / (high - low), 0, 1)
    across, along = _difference(shown.mean(0)), _ALONG_LIMB * _difference(shown.mean(1))
    return across if abs(across) >= abs(along) else along


def _difference(profile: Float64[np.ndarray, " n"]) -> float:
    third, sixth = len(profile) // 3, len(profile) // 6
    borders = np.concatenate([profile[:sixth], profile[-sixth:]])
    return float(profile[third:-third].mean() - borders.mean())
