"""How alike are radiographs of one set? MS-SSIM between pairs of them."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

from femur_jax.errors import UserError

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()
_C1, _C2 = 0.01**2, 0.03**2


def ms_ssim(
    x: Float[np.ndarray, "pair height width"], y: Float[np.ndarray, "pair height width"]
) -> Float[np.ndarray, " pair"]:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003, equation 7).

    Five scales where the shorter side has 176 pixels or more; below, as many as the 11 x 11
    window fits into, with the weights of those brought to a sum of one. A negative similarity of
    structure counts as zero.

    Args:
        x: Images in [0, 1].
        y: As many images of the same size.

    Raises:
        UserError: The images are smaller than the window.
    """
    side = min(x.shape[1:])
    scales = sum(side // 2**n >= len(_WINDOW) for n in range(len(_WEIGHTS)))
    if not scales:
        raise UserError(
            f"Images of {x.shape[1]} x {x.shape[2]} pixels are smaller than the window of SSIM; "
            f"compare images of {len(_WINDOW)} x {len(_WINDOW)} pixels or more."
        )
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
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
    """Mean MS-SSIM of random pairs; the nearer to 1, the less varied is the set.

    It means something only beside the real set's at the same size: black around a letterboxed
    radiograph is alike in all.

    Raises:
        UserError: There are fewer than two images, or they are too small.
    """
    if len(images) < 2:
        raise UserError(
            f"The diversity of {len(images)} radiographs cannot be told; make two or more."
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
        x = correlate1d(x, _WINDOW, axis=axis)
    edge = len(_WINDOW) // 2
    return x[:, edge:-edge, edge:-edge]


def _halved(x: Float[np.ndarray, "pair h w"]) -> Float[np.ndarray, "pair h2 w2"]:
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2).mean(axis=(2, 4))
