"""Distances between many vectors and exact nearest neighbours, in blocks that fit into memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from femur_jax.errors import UserError

_MORE_CANDIDATES = 15  # samples beyond k whose exact distance the float32 search asks for
_BLOCK_BYTES = 1 << 27
_CACHE_BYTES = 1 << 22


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


def euclidean_distances(
    queries: Float[np.ndarray, "query dim"], references: Float[np.ndarray, "reference dim"]
) -> Float32[np.ndarray, "query reference"]:
    """Distances of all queries from all references, to about 1e-3 of the vectors' norms."""
    blocks = [squared for _, squared in squared_distances(queries, references)]
    return np.sqrt(np.maximum(np.concatenate(blocks), 0))


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
