"""What a radiologist's ruler would tell apart: distances between sets that need no network."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt16
from scipy.stats import wasserstein_distance

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.shaft import trace_shaft

_QUANTILES = np.linspace(0.01, 0.99, 15)
_BANDS = 16
_PARTS = 9
_SHAFT_SIDE = 256  # longer side of the image that the shaft is measured in, at most

Image = UInt16[np.ndarray, "_height _width"]


def grey_values(image: Image) -> Float[np.ndarray, " quantile"]:
    """Quantiles of the grey values, in [0, 1]."""
    return np.quantile(image / 65535, _QUANTILES)


def power_spectrum(image: Image) -> Float[np.ndarray, " band"]:
    """Logarithm of the radially averaged power, in 16 bands up to 0.5 cycles a pixel.

    Grey values are standardised and windowed (Hann). Missing detail, noise and the checkerboards
    of upsampling layers show here. A band that a small image has no frequency in takes the next
    one's.
    """
    grey = image - image.mean()
    spread = grey.std()
    grey = grey / spread if spread else grey
    grey = grey * np.outer(*(np.hanning(side + 2)[1:-1] for side in grey.shape))
    power = abs(np.fft.fft2(grey)) ** 2 / grey.size
    y, x = (np.fft.fftfreq(side) for side in grey.shape)
    radius = np.hypot(y[:, None], x)
    band = np.minimum(radius / 0.5 * _BANDS, _BANDS).astype(int)  # corners: one band, left out
    band[0, 0] = _BANDS
    counts = np.bincount(band.ravel(), minlength=_BANDS + 1)[:_BANDS]
    sums = np.bincount(band.ravel(), power.ravel(), minlength=_BANDS + 1)[:_BANDS]
    known = np.flatnonzero(counts)
    means = np.interp(np.arange(_BANDS), known, sums[known] / counts[known])
    return np.log(means + 1e-12)


def size(image: Image) -> Float[np.ndarray, "3"]:
    """Logarithms of height, width and aspect ratio."""
    height, width = np.log(image.shape)
    return np.array([height, width, height - width])


def shaft_widths(image: Image) -> Float[np.ndarray, " part"]:
    """Width of the femur at nine heights (medians over rows), as a share of the image's width.

    For images in which the shaft runs from top to bottom, of 8 x 8 pixels or more; they are
    thinned to 256 pixels.
    """
    step = -(-max(image.shape) // _SHAFT_SIDE)
    shaft = trace_shaft(np.ascontiguousarray(image[::step, ::step]))
    width = (shaft.right - shaft.left) / image[::step, ::step].shape[1]
    return np.array([np.median(part) for part in np.array_split(width, _PARTS)])


DESCRIPTORS: Mapping[str, Callable[[Image], np.ndarray]] = {
    "grey values": grey_values,
    "power spectrum": power_spectrum,
    "size": size,
    "shaft width": shaft_widths,
}


def describe(
    descriptor: Callable[[Image], np.ndarray],
    dataset: RadiographDataset,
    radiographs: Sequence[int],
) -> Float[np.ndarray, "n dim"]:
    """A descriptor of some radiographs at their native size, one after the other."""
    return np.stack([descriptor(dataset.read(n)) for n in radiographs])


def descriptor_distance(
    real: Float[np.ndarray, "n dim"], synthetic: Float[np.ndarray, "m dim"]
) -> float:
    """Mean over components of the Wasserstein-1 distance, in standard deviations of the real set.

    A shift of all values by one standard deviation is a distance of 1. Small sets have one above
    zero by chance: compare with a floor of real against real.

    Raises:
        UserError: The real set has fewer than two radiographs or the other none.
    """
    if len(real) < 2 or len(synthetic) < 1:
        raise UserError(
            f"{len(real)} real and {len(synthetic)} other radiographs are too few to compare; "
            "use a larger split."
        )
    spread = real.std(axis=0, ddof=1)
    spread[spread == 0] = 1.0
    return float(
        np.mean(
            [
                wasserstein_distance(real[:, i] / s, synthetic[:, i] / s)
                for i, s in enumerate(spread)
            ]
        )
    )
