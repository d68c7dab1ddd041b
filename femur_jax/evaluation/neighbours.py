"""Exact nearest neighbours of many vectors or pictures, in blocks that fit into memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from femur_jax.errors import UserError

_MORE_CANDIDATES = 15  # samples beyond k whose exact distance the float32 search asks for
_BLOCK_BYTES = 1 << 27
_CACHE_BYTES = 1 << 22
_BAND = (1.0, 4.0)  # standard deviations of the Gaussians whose difference is compared, pixels


@dataclass(frozen=True)
class Neighbours:
    """The k nearest references of each query, nearest first, and their Euclidean distances."""

    index: Int[np.ndarray, "query k"]
    distance: Float[np.ndarray, "query k"]


def k_nearest(
    queries: Float[np.ndarray, "query dim"],
    references: Float[np.ndarray, "reference dim"],
    k: int,
    *,
    exclude: Int[np.ndarray, " query"] | None = None,
) -> Neighbours:
    """Finds each query's k nearest references.

    Blocks of queries are ranked by matrix products in float32; the distances to the best k + 15
    are then computed in float64 from differences, free of the cancellation in
    |q|^2 + |r|^2 - 2 q.r. Beyond the arguments it takes a copy of both in float32 and 0.4 GB.

    Args:
        queries: Vectors to look up.
        references: Vectors to look among.
        k: Number of neighbours of each.
        exclude: Position of the one reference that each query ignores, such as itself.

    Raises:
        UserError: There are fewer than k references to find.
    """
    _check_enough(references, k, exclude)
    count = min(k + _MORE_CANDIDATES, len(references))
    index = np.empty((len(queries), k), np.int64)
    distance = np.empty((len(queries), k))
    for rows, squared in squared_distances(queries, references):
        if exclude is not None:
            squared[np.arange(len(squared)), exclude[rows]] = np.inf
        candidates = np.argpartition(squared, count - 1, axis=1)[:, :count]
        exact = exact_distances(queries[rows], references, candidates)
        if exclude is not None:
            exact[candidates == exclude[rows, None]] = np.inf
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        index[rows] = np.take_along_axis(candidates, order, axis=1)
        distance[rows] = np.take_along_axis(exact, order, axis=1)
    return Neighbours(index, distance)


def most_correlated(
    queries: Float[np.ndarray, "query height width"],
    references: Float[np.ndarray, "reference height width"],
    k: int,
    *,
    exclude: Int[np.ndarray, " query"] | None = None,
    shift: int = 3,
) -> Neighbours:
    """Finds each query's k most correlated references, under small shifts and mirroring.

    Akbar, Wang and Eklund 2025 (arXiv 2305.07644) correlate each synthetic image with all training
    images. Here the pixels' ranks are correlated, which do not change with window or gamma, in the
    band of sizes that differs between patients: the broad shades of all femurs are alike, and
    noise is new in each radiograph. The correlation c is the greatest of the picture and its mirror
    image under shifts of up to `shift` pixels along each axis, on the interior that all shifts
    share.

    Args:
        queries: Grey values of the pictures to look up.
        references: Grey values of the pictures to look among, of the same size.
        k: Number of neighbours of each.
        exclude: Position of the one reference that each query ignores, such as itself.
        shift: Greatest shift in pixels.

    Returns:
        The neighbours with the distance sqrt(2 (1 - c)), the Euclidean one of standardised
        pictures: 0 for a copy, sqrt(2) for unrelated pictures. Exact to about 5e-4.

    Raises:
        UserError: There are fewer than k references to find.
    """
    _check_enough(references, k, exclude)
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
                shifted = _unit(picture[:, y : y + height, x : x + width])
                np.maximum(best, shifted @ inner.T, out=best)
        if exclude is not None:
            best[np.arange(len(best)), exclude[rows]] = -np.inf
        top = np.argpartition(-best, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(best, top, axis=1), axis=1, kind="stable")
        index[rows] = np.take_along_axis(top, order, axis=1)
        correlation = np.take_along_axis(best, index[rows], axis=1).astype(np.float64)
        distance[rows] = np.sqrt(2 * np.maximum(1 - correlation, 0))
    return Neighbours(index, distance)


def squared_distances(
    queries: Float[np.ndarray, "query dim"], references: Float[np.ndarray, "reference dim"]
) -> Iterator[tuple[slice, Float[np.ndarray, "block reference"]]]:
    """Squared distances in float32, a block of queries at a time.

    Sets are centred first: with small norms the products are accurate to about 1e-6 of them.
    """
    centre = references.mean(axis=0, dtype=np.float64)
    q, r = (
        np.subtract(x, centre, out=np.empty(x.shape, np.float32), casting="same_kind")
        for x in (queries, references)
    )
    r_squared = np.einsum("ij,ij->i", r, r)
    block = max(1, _BLOCK_BYTES // (4 * len(r)))
    for start in range(0, len(q), block):
        rows = slice(start, start + block)
        squared = q[rows] @ r.T
        squared *= -2
        squared += r_squared
        squared += np.einsum("ij,ij->i", q[rows], q[rows])[:, None]
        yield rows, squared


def exact_distances(
    queries: Float[np.ndarray, "query dim"],
    references: Float[np.ndarray, "reference dim"],
    candidates: Int[np.ndarray, "query candidate"],
) -> Float[np.ndarray, "query candidate"]:
    """Distances in float64 from each query to its candidates among the references."""
    result = np.empty(candidates.shape)
    block = max(1, _CACHE_BYTES // (8 * queries.shape[1] * max(candidates.shape[1], 1)))
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        difference = references[candidates[rows]].astype(np.float64) - queries[rows, None]
        result[rows] = np.sqrt(np.einsum("qcd,qcd->qc", difference, difference))
    return result


def _check_enough(references: np.ndarray, k: int, exclude: np.ndarray | None) -> None:
    if len(references) < max(k, 1) + (exclude is not None):
        raise UserError(
            f"A search for {k} nearest neighbours among {len(references)} samples has too few to "
            "compare with: use a larger split."
        )


def _banded(images: Float[np.ndarray, "n height width"]) -> Float[np.ndarray, "n height width"]:
    """Ranks of each image's pixels, between two scales."""
    flat = rankdata(images.reshape(len(images), -1), axis=1)
    ranks = flat.reshape(images.shape).astype(np.float32)
    fine, coarse = (gaussian_filter(ranks, (0, sigma, sigma)) for sigma in _BAND)
    return fine - coarse


def _unit(images: Float[np.ndarray, "n height width"]) -> Float[np.ndarray, "n pixel"]:
    """Flat images with zero mean and unit norm; a constant picture is all zeros."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
