"""The texture of tissue: noise whose power spectrum follows a power law."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from femur_jax.phantom.interpolate import bilinear

REFERENCE = 1.0
"""Highest frequency, in cycles per mm, of the band for which the deviation is stated."""


@dataclass(frozen=True)
class Texture:
    """A square of noise that repeats without seams.

    Attributes:
        values: Noise of mean 0.
        pitch: Distance between neighbouring values, mm.
    """

    values: Float32[np.ndarray, "side side"]
    pitch: float

    def at(
        self, down: Float[np.ndarray, "points"], right: Float[np.ndarray, "points"]
    ) -> Float32[np.ndarray, "points"]:
        """Interpolates linearly at positions in mm."""
        side = len(self.values)
        wrapped = np.pad(self.values, ((0, 1), (0, 1)), mode="wrap")
        return bilinear(wrapped, down / self.pitch % side, right / self.pitch % side)


def draw_texture(
    rng: np.random.Generator, *, extent: float, pitch: float, exponent: float, deviation: float
) -> Texture:
    """Draws Gaussian noise with power 1 / f^exponent.

    Burgess, J Opt Soc Am A 1999;16:633-646, measures exponents of about 3 in radiographs.

    Args:
        rng: Source of randomness.
        extent: Period in mm, up to rounding.
        pitch: Distance between neighbouring values in mm, for frequencies up to 1 / (2 pitch).
        exponent: Exponent of the power spectrum.
        deviation: Standard deviation of the noise between 1 / extent and 1 cycle per mm.
    """
    side = 16 * max(1, round(extent / (16 * pitch)))  # fast to transform
    f = np.hypot(np.fft.fftfreq(side, pitch)[:, None], np.fft.rfftfreq(side, pitch)).astype(
        np.float32
    )
    f[0, 0] = np.inf
    # The variance is the integral of 2 pi f A / f^exponent df over the stated band.
    power = 2.0 - exponent
    lowest = 1.0 / (side * pitch)
    amplitude = deviation**2 * power / (2 * np.pi * (REFERENCE**power - lowest**power))
    white = np.fft.rfft2(rng.standard_normal((side, side), np.float32))
    scale = np.float32(np.sqrt(amplitude) / pitch)
    values = np.fft.irfft2(white * (scale * f ** np.float32(-0.5 * exponent)), s=(side, side))
    return Texture(values.astype(np.float32), pitch)
