"""A detector with quantum noise and blur; its signal is logarithmic."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32
from scipy.special import ndtri

BLOCK = 24576
"""Number of pixels processed at once. A few arrays of this size fit into a core's cache, and each
is too small for the allocator to map new memory for it."""

FEW = 50.0
"""Mean count below which a normal distribution differs too much from Poisson's."""

QUANTILES = ndtri((np.arange(2**16) + 0.5) / 2**16).astype(np.float32)
"""Quantiles of the normal distribution. 16 random bits choose one, which is four times faster than
exact sampling."""


def detect(
    rng: np.random.Generator,
    rows: Callable[[int, int], Float32[np.ndarray, "2 rows width"]],
    shape: tuple[int, int],
    texture: Float32[np.ndarray, "side side"],
    *,
    photons: float,
    blur: float,
) -> Float32[np.ndarray, "height width"]:
    """The detector's signal as log attenuation: 0 in air, high in bone.

    Args:
        rng: Source of the quantum noise.
        rows: A function that returns the rows from `top` to before `bottom` of the expected
            signal, and of the signal's change per relative change of bone.
        shape: Height and width, pixels.
        texture: Deviations of bone as a share of it, repeated over the image.
        photons: Mean count in a pixel of the open beam.
        blur: Standard deviation of the detector's blur, pixels, at most 0.7.

    Returns:
        -log(N / photons), where the count N has the mean photons exp(-signal) after the blur.
    """
    height, width = shape
    texture = np.tile(texture, (1, -(-width // texture.shape[1])))[:, :width]
    result = np.empty(shape, np.float32)
    step = max(1, BLOCK // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        # The blur needs one more row on both sides; the image's edges are repeated.
        first, last = max(top - 1, 0), min(bottom + 1, height)
        signal, trabecular = rows(first, last)
        expected = texture[np.arange(first, last) % len(texture)]
        expected *= trabecular
        expected += signal
        np.negative(expected, out=expected)
        np.exp(expected, out=expected)
        repeated = np.clip(np.arange(top - 1, bottom + 1), 0, height - 1) - first
        expected = _blur(expected[repeated], blur)
        bits = np.frombuffer(rng.bytes(2 * expected.size), np.uint16).reshape(expected.shape)
        noise = np.take(QUANTILES, bits, mode="clip")
        noise *= np.sqrt(expected * np.float32(1.0 / photons))
        if expected.min() < FEW / photons:
            few = np.flatnonzero(expected < FEW / photons)
            mean = expected.flat[few]
            noise.flat[few] = rng.poisson(mean * photons) / photons - mean
        expected += noise
        # A count of zero becomes half a count, so that the logarithm stays finite.
        np.maximum(expected, np.float32(0.5 / photons), out=expected)
        np.log(expected, out=expected)
        np.negative(expected, out=result[top:bottom])
    return result


def _blur(
    block: Float32[np.ndarray, "rows width"], sigma: float
) -> Float32[np.ndarray, "inner width"]:
    """Blurs by three-point kernels of variance sigma^2; the result lacks the outer two rows."""
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
