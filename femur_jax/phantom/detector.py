"""A detector: quantum noise and blur, in the logarithm of its signal."""

import numpy as np
from jaxtyping import Float32

BLOCK = 65536
"""Pixels worked on at once: a few arrays of them fit into a core's cache."""

FEW = 50.0
"""Counts below which a normal distribution is too far from Poisson's."""


def detect(
    rng: np.random.Generator,
    signal: Float32[np.ndarray, "height width"],
    trabecular: Float32[np.ndarray, "height width"],
    bone: Float32[np.ndarray, "side side"],
    *,
    photons: float,
    blur: float,
    grid: Float32[np.ndarray, "width"],
) -> Float32[np.ndarray, "height width"]:
    """The detector's signal as log attenuation, 0 in air, bright in bone.

    Args:
        rng: Source of the quantum noise.
        signal: Logarithm of the open beam over the expected intensity.
        trabecular: Its change by a relative change of bone.
        bone: Relative deviations of bone, repeated over the image.
        photons: Mean count in an open pixel.
        blur: Standard deviation of the detector's blur, pixels, at most 1.
        grid: Addition to the signal by the lamellae of a grid, alike in all rows.

    Returns:
        The signal with noise of counts: their mean is photons exp(-signal), after the blur.
    """
    height, width = signal.shape
    bone = np.tile(bone, (1, -(-width // bone.shape[1])))[:, :width]
    result = np.empty((height, width), np.float32)
    rows = max(1, BLOCK // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        halo = np.clip(np.arange(top - 1, bottom + 1), 0, height - 1)
        inner = slice(halo[0], halo[-1] + 1)
        expected = bone[np.arange(inner.start, inner.stop) % len(bone)]
        expected *= trabecular[inner]
        expected += signal[inner]
        expected += grid
        np.negative(expected, out=expected)
        np.exp(expected, out=expected)
        expected = _blur(expected[halo - halo[0]], blur)
        noise = rng.standard_normal(expected.shape, np.float32)
        noise *= np.sqrt(expected * np.float32(1.0 / photons))
        few = np.flatnonzero(expected < FEW / photons) if expected.min() < FEW / photons else ()
        if len(few):
            mean = expected.flat[few]
            noise.flat[few] = rng.poisson(mean * photons) / photons - mean
        expected += noise
        # Half a count stands for none: the logarithm stays finite.
        np.maximum(expected, np.float32(0.5 / photons), out=expected)
        np.log(expected, out=expected)
        np.negative(expected, out=result[top:bottom])
    return result


def _blur(
    block: Float32[np.ndarray, "rows width"], sigma: float
) -> Float32[np.ndarray, "inner width"]:
    """Three-point kernels of variance sigma^2; the first and the last row are only read."""
    share = np.float32(0.5 * sigma**2)
    middle = block[1:-1]
    down = block[:-2] + block[2:]
    down *= share
    down += (1 - 2 * share) * middle
    across = (1 - 2 * share) * down
    across[:, 1:-1] += share * (down[:, :-2] + down[:, 2:])
    across[:, 0] += share * (down[:, 0] + down[:, 1])
    across[:, -1] += share * (down[:, -1] + down[:, -2])
    return across
