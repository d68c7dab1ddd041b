"""The nearest pictures by correlation, under small shifts and mirroring."""

from itertools import product

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from femur_jax.errors import UserError
from femur_jax.evaluation.neighbours import Neighbours

_BLOCK_BYTES = 1 << 27
_BAND = (1.0, 4.0)  # standard deviations of the Gaussians whose difference is compared, pixels


def most_correlated(
    queries: Float[np.ndarray, "query height width"],
    references: Float[np.ndarray, "reference height width"],
    k: int,
    *,
    exclude: Int[np.ndarray, " query"] | None = None,
    shift: int = 3,
) -> Neighbours:
    """Finds each query's k most correlated references.

    Akbar, Wang and Eklund 2025 (arXiv 2305.07644) correlate each synthetic image with all training
    images. Here the pixels' ranks are correlated, which another window or gamma leaves as they
    are, in the band of sizes that tells patients apart: the broad shades of all femurs are alike,
    and noise is new in each. The correlation c is the greatest of the picture and its mirror image
    under shifts of up to `shift` pixels along each axis, of the interior that shifts do not leave.

    Args:
        queries: Grey values.
        references: Grey values of the same size, to look among.
        k: Neighbours of each.
        exclude: For each query the one reference that does not count, such as itself.
        shift: Pixels.

    Returns:
        The neighbours with the distance sqrt(2 (1 - c)), the Euclidean one of standardised
        pictures: 0 for a copy, sqrt(2) for what is not related. Exact to about 5e-4.

    Raises:
        UserError: There are fewer than k references to find.
    """
    if len(references) < max(k, 1) + (exclude is not None):
        raise UserError(
            f"A search for {k} nearest neighbours among {len(references)} samples has too few to "
            "compare with: use a larger split."
        )
    height, width = references.shape[1] - 2 * shift, references.shape[2] - 2 * shift
    inner = _unit(_banded(references)[:, shift : shift + height, shift : shift + width])
    banded = _banded(queries)
    index = np.empty((len(queries), k), np.int64)
    distance = np.empty((len(queries), k))
    block = max(1, _BLOCK_BYTES // (4 * max(len(references), height * width)))
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        best = np.full((len(banded[rows]), len(references)), -1.0, np.float32)
        for picture in (banded[rows], banded[rows, :, ::-1]):
            for y, x in product(range(2 * shift + 1), repeat=2):
                moved = _unit(picture[:, y : y + height, x : x + width])
                np.maximum(best, moved @ inner.T, out=best)
        if exclude is not None:
            best[np.arange(len(best)), exclude[rows]] = -np.inf
        top = np.argpartition(-best, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(best, top, axis=1), axis=1, kind="stable")
        index[rows] = np.take_along_axis(top, order, axis=1)
        correlation = np.take_along_axis(best, index[rows], axis=1).astype(np.float64)
        distance[rows] = np.sqrt(2 * np.maximum(1 - correlation, 0))
    return Neighbours(index, distance)


def _banded(images: Float[np.ndarray, "n height width"]) -> Float[np.ndarray, "n height width"]:
    """Ranks of each image's pixels, between two scales."""
    flat = rankdata(images.reshape(len(images), -1), axis=1)
    ranks = flat.reshape(images.shape).astype(np.float32)
    fine, coarse = (gaussian_filter(ranks, (0, sigma, sigma)) for sigma in _BAND)
    return fine - coarse


def _unit(images: Float[np.ndarray, "n height width"]) -> Float[np.ndarray, "n pixel"]:
    """Flat, with zero mean and unit norm; a constant picture is all zeros."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
