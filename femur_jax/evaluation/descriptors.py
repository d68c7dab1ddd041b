"""Distances between sets without a network: what a radiologist's ruler would measure, and MS-SSIM.

The femur's two outer edges are traced in the pixels alone, so that real, simulated and synthetic
radiographs are measured alike. A generator that works in tiles and levels may shift the bone where
two tiles meet; `Shaft.breaks` counts such shifts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt16
from scipy.ndimage import correlate1d, gaussian_filter, gaussian_filter1d
from scipy.stats import wasserstein_distance

from femur_jax.data.pyramid import level_sizes, pyramid
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

_QUANTILES = np.linspace(0.01, 0.99, 15)
_BANDS = 16
_SECTIONS = 9  # heights at which the shaft's width is measured
_SHAFT_SIDE = 256  # longer side of the image that the shaft is measured in, at most

_COARSEST = 128  # longer side of the image in which both edges are sought together
_NARROWEST = 4  # columns of that image, which hold two edges at a plausible distance
_WIDTHS = (0.07, 0.5)  # of the femur, over the image's width
_STEEPEST = 3  # greatest step of an edge from one row to the next, pixels
_PENALTY = 0.5  # of a step of one pixel, in standard deviations of the slope
_REACH = 4  # pixels between an edge and the edge of the next coarser level, at most
_FLANK = 3  # how far outside of an edge the soft tissue's brightness is read, pixels
_JUMP_ROWS = 3  # rows over which a break's jump may spread: the filters smooth it
_SMOOTH = 1.0  # standard deviation of the filters, pixels

_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SSIM_WINDOW = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
_SSIM_WINDOW /= _SSIM_WINDOW.sum()
_C1, _C2 = 0.01**2, 0.03**2

Image = UInt16[np.ndarray, "_height _width"]


def grey_values(image: Image) -> Float[np.ndarray, " quantile"]:
    """Quantiles of the grey values, in [0, 1]."""
    return np.quantile(image / 65535, _QUANTILES)


def power_spectrum(image: Image) -> Float[np.ndarray, " band"]:
    """Logarithm of the radially averaged power, in 16 bands up to 0.5 cycles a pixel.

    Grey values are standardised and windowed (Hann). Missing detail, noise and the checkerboards
    of upsampling layers change it. A band without a frequency in a small image is interpolated
    from its neighbours.
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


def shaft_widths(image: Image) -> Float[np.ndarray, " section"]:
    """Width of the femur at nine heights (medians over rows), as a share of the image's width.

    The shaft must run from the top to the bottom of the image, which is thinned to 256 pixels. The
    width is 0 in an image that is too narrow for two edges. Rows of a low image are repeated.
    """
    step = -(-max(image.shape) // _SHAFT_SIDE)
    thinned = np.ascontiguousarray(image[::step, ::step])
    height, width = thinned.shape
    if level_sizes(height, width, _COARSEST)[0][1] < _NARROWEST:
        return np.zeros(_SECTIONS)
    shaft = trace_shaft(thinned)
    rows = np.repeat((shaft.right - shaft.left) / width, -(-_SECTIONS // height))
    return np.array([np.median(section) for section in np.array_split(rows, _SECTIONS)])


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
    """A descriptor of each of some radiographs, at their native size."""
    return np.stack([descriptor(dataset.read(n)) for n in radiographs])


def descriptor_distance(
    real: Float[np.ndarray, "n dim"], synthetic: Float[np.ndarray, "m dim"]
) -> float:
    """Mean over components of the Wasserstein-1 distance, in standard deviations of the real set.

    A shift of all values by one standard deviation is a distance of 1. Small sets have a distance
    above zero by chance: compare with a floor of real against real radiographs.

    Raises:
        UserError: The real set has fewer than two radiographs, or the other set has none.
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


@dataclass(frozen=True)
class Shaft:
    """Columns of the outer edges in each row.

    Attributes:
        left, right: The edges' columns.
        contrast: Rise of the grey values into the bone, mean of both edges, over the standard
            deviation of such slopes nearby; 0 for an edge that is not there.
    """

    left: Int[np.ndarray, "height"]
    right: Int[np.ndarray, "height"]
    contrast: Float[np.ndarray, "height"]

    def breaks(self, pixels: int) -> float:
        """Share of rows from which an edge moves by at least `pixels` within three rows."""
        moves = [abs(edge[_JUMP_ROWS:] - edge[:-_JUMP_ROWS]) for edge in (self.left, self.right)]
        return float(np.mean(np.maximum(*moves) >= pixels))


def trace_shaft(image: UInt16[np.ndarray, "height width"]) -> Shaft:
    """Finds the edges of a bone that runs from the top to the bottom of an image.

    Dynamic programming finds the pair of edges with the greatest sum of slopes, brighter inside,
    less a penalty on their steps: in a small image first, then each edge near its position in
    finer ones. Slopes next to black count less: those belong to the skin.

    Args:
        image: An image of at least 8 x 8 pixels, with bright bone.
    """
    levels = pyramid(image, _COARSEST)
    rise, fall = _slopes(levels[0])
    left, right = _pair(rise, fall)
    for level in levels[1:]:
        rise, fall = _slopes(level)
        left, right = (
            _near(slope, np.repeat(2 * edge, 2)[: len(level)])
            for slope, edge in ((rise, left), (fall, right))
        )
    rows = np.arange(len(left))
    return Shaft(left, right, (rise[rows, left] + fall[rows, right]) / 2)


def _slopes(
    image: UInt16[np.ndarray, "height width"],
) -> tuple[Float[np.ndarray, "height width"], Float[np.ndarray, "height width"]]:
    """Normalised rise and fall of the image from left to right."""
    smooth = gaussian_filter(image.astype(np.float64), _SMOOTH)
    slope = gaussian_filter1d(
        gaussian_filter1d(image.astype(np.float64), _SMOOTH, axis=0), _SMOOTH, axis=1, order=1
    )
    spread = np.sqrt(gaussian_filter(slope**2, max(image.shape) / 16)) + 1.0
    slope = np.clip(slope / spread, -3, 3)
    tissue = np.clip(smooth / max(float(np.median(smooth)), 1.0), 0, 1)
    flanks = np.pad(tissue, ((0, 0), (_FLANK, _FLANK)), mode="edge")
    before, after = flanks[:, : -2 * _FLANK], flanks[:, 2 * _FLANK :]
    return (
        np.where(slope > 0, slope * before, slope),
        np.where(slope < 0, -slope * after, -slope),
    )


def _pair(
    rise: Float[np.ndarray, "height width"], fall: Float[np.ndarray, "height width"]
) -> tuple[Int[np.ndarray, "height"], Int[np.ndarray, "height"]]:
    """The best two edges at a plausible distance; the states are all pairs of columns."""
    height, width = rise.shape
    columns = np.arange(width)
    apart = columns[None, :] - columns[:, None]
    plausible = (apart >= max(_WIDTHS[0] * width, 3)) & (apart <= max(_WIDTHS[1] * width, 4))
    score = np.where(plausible, rise[0, :, None] + fall[0, None, :], -np.inf)
    steps = np.zeros((height, 2, width, width), np.int8)
    for row in range(1, height):
        for edge in (0, 1):
            score, steps[row, edge] = _move(score, edge)
        score = np.where(plausible, score + rise[row, :, None] + fall[row, None, :], -np.inf)
    path = np.zeros((height, 2), int)
    path[-1] = np.unravel_index(score.argmax(), score.shape)
    for row in range(height - 1, 0, -1):
        left, right = path[row]
        right += steps[row, 1, left, right]  # the later of the two moves is undone first
        left += steps[row, 0, left, right]
        path[row - 1] = left, right
    return path[:, 0], path[:, 1]


def _near(
    slope: Float[np.ndarray, "height width"], centre: Int[np.ndarray, "height"]
) -> Int[np.ndarray, "height"]:
    """The best edge within a band around `centre`; the states are all columns."""
    height, width = slope.shape
    columns = np.arange(width)
    slope = np.where(abs(columns - centre[:, None]) <= _REACH, slope, -np.inf)
    score, steps = slope[0], np.zeros((height, width), np.int8)
    for row in range(1, height):
        score, steps[row] = _move(score, 0)
        score = score + slope[row]
    path = np.zeros(height, int)
    path[-1] = score.argmax()
    for row in range(height - 1, 0, -1):
        path[row - 1] = path[row] + steps[row, path[row]]
    return path


def _move(
    score: Float[np.ndarray, "..."], axis: int
) -> tuple[Float[np.ndarray, "..."], Int[np.ndarray, "..."]]:
    """Best score of the row before for each state, and the step along an axis that reaches it."""
    length = score.shape[axis]
    reach = range(-_STEEPEST, _STEEPEST + 1)
    padded = np.pad(
        score,
        [(_STEEPEST, _STEEPEST) if a == axis else (0, 0) for a in range(score.ndim)],
        constant_values=-np.inf,
    )
    reached = np.stack(
        [
            padded.take(np.arange(length) + _STEEPEST + step, axis) - _PENALTY * abs(step)
            for step in reach
        ]
    )
    best = reached.argmax(0)
    return np.take_along_axis(reached, best[None], 0)[0], (best - _STEEPEST).astype(np.int8)


def ms_ssim(
    x: Float[np.ndarray, "pair height width"], y: Float[np.ndarray, "pair height width"]
) -> Float[np.ndarray, " pair"]:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003, equation 7).

    There are five scales where the shorter side has 176 pixels or more; below that, as many as
    the 11 x 11 window fits into, with their weights scaled to a sum of one. A negative similarity
    of structure counts as zero.

    Args:
        x: Images with values in [0, 1].
        y: The images that they are compared with, one each, of the same size.

    Raises:
        UserError: The images are smaller than the window.
    """
    side = min(x.shape[1:])
    scales = sum(side // 2**n >= len(_SSIM_WINDOW) for n in range(len(_SSIM_WEIGHTS)))
    if not scales:
        raise UserError(
            f"Images of {x.shape[1]} x {x.shape[2]} pixels are smaller than the window of SSIM; "
            f"compare images of {len(_SSIM_WINDOW)} x {len(_SSIM_WINDOW)} pixels or more."
        )
    weights = np.array(_SSIM_WEIGHTS[:scales]) / sum(_SSIM_WEIGHTS[:scales])
    result = np.ones(len(x))
    for scale, weight in enumerate(weights):
        luminance, structure = _ssim_terms(x, y)
        last = scale == scales - 1
        term = (luminance * structure if last else structure).mean(axis=(1, 2))
        result *= np.maximum(term, 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return result


def mean_similarity(
    images: Float[np.ndarray, "n height width"], *, pairs: int = 200, seed: int = 0
) -> float:
    """Mean MS-SSIM of random pairs; the nearer to 1, the less varied the set.

    Compare it only with the real set's at the same size: black around a letterboxed radiograph is
    the same in all of them.

    Raises:
        UserError: There are fewer than two images, or they are too small.
    """
    if len(images) < 2:
        raise UserError(
            f"The diversity of {len(images)} radiographs cannot be measured; sample two or more."
        )
    rng = np.random.default_rng(seed)
    first = rng.integers(len(images), size=pairs)
    second = (first + rng.integers(1, len(images), size=pairs)) % len(images)
    return float(
        np.mean([ms_ssim(images[[a]], images[[b]])[0] for a, b in zip(first, second, strict=True)])
    )


def _ssim_terms(
    x: Float[np.ndarray, "pair h w"], y: Float[np.ndarray, "pair h w"]
) -> tuple[Float[np.ndarray, "pair h2 w2"], Float[np.ndarray, "pair h2 w2"]]:
    """Luminance, and contrast times structure, where the whole window lies in the image."""
    mu_x, mu_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mu_x**2, _windowed(y * y) - mu_y**2
    covariance = _windowed(x * y) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + _C1) / (mu_x**2 + mu_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (var_x + var_y + _C2)


def _windowed(x: Float[np.ndarray, "pair h w"]) -> Float[np.ndarray, "pair h2 w2"]:
    for axis in (1, 2):
        x = correlate1d(x, _SSIM_WINDOW, axis=axis)
    edge = len(_SSIM_WINDOW) // 2
    return x[:, edge:-edge, edge:-edge]


def _halved(x: Float[np.ndarray, "pair h w"]) -> Float[np.ndarray, "pair h2 w2"]:
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2).mean(axis=(2, 4))
