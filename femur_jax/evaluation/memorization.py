"""Does a generator repeat its training set? Nearest neighbours with a calibrated threshold.

All functions work on vectors (features, or pixels of images brought to one size) and on the
Euclidean distance.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from femur_jax.errors import UserError

_CANDIDATES = 16
"""Samples that the float32 search hands on to the exact distance."""


@dataclass(frozen=True)
class Nearest:
    """The nearest reference of each query: its index and its distance."""

    index: Int[np.ndarray, " query"]
    distance: Float[np.ndarray, " query"]


@dataclass(frozen=True)
class Audit:
    """What `audit` finds, one entry for each synthetic sample.

    Attributes:
        nearest: Nearest training sample.
        threshold: Distance up to which a sample is flagged.
        chance_share: Share of fresh real samples that would be flagged, in expectation.
        flagged: True where the sample lies suspiciously near to a training sample.
        authentic: False where the sample is as near to a training sample as that sample's own
            nearest neighbour in the training set, or nearer.
    """

    nearest: Nearest
    threshold: float
    chance_share: float
    flagged: Bool[np.ndarray, " sample"]
    authentic: Bool[np.ndarray, " sample"]


def nearest(
    queries: Float[np.ndarray, "query dim"],
    references: Float[np.ndarray, "reference dim"],
    *,
    exclude: Int[np.ndarray, " query"] | None = None,
    block: int = 1024,
) -> Nearest:
    """Finds each query's nearest reference.

    Blocks of queries are ranked by matrix products in float32; the distances to the best 16 are
    then computed in float64 from differences, free of the cancellation in |q|^2 + |r|^2 - 2 q.r.

    Args:
        queries: Vectors to look up.
        references: Vectors to look among.
        exclude: For each query the one reference that does not count, such as itself.
        block: Queries at a time; memory grows with block x reference.

    Raises:
        UserError: There is no reference to find.
    """
    if len(references) < 1 + (exclude is not None):
        raise UserError(
            f"A nearest-neighbour search among {len(references)} training samples has nothing to "
            "compare with: use a larger training split."
        )
    centre = references.mean(axis=0)  # small norms keep the float32 products accurate
    q32 = (queries - centre).astype(np.float32)
    r32 = (references - centre).astype(np.float32)
    r_squared = np.sum(r32**2, axis=1)
    k = min(_CANDIDATES, len(references))

    index = np.empty(len(queries), dtype=np.int64)
    distance = np.empty(len(queries))
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        rank = r_squared - 2 * (q32[rows] @ r32.T)  # |q|^2 changes no ranking
        if exclude is not None:
            rank[np.arange(len(rank)), exclude[rows]] = np.inf
        best = np.argpartition(rank, k - 1, axis=1)[:, :k]
        for i, candidates in enumerate(best, start):
            if exclude is not None:
                candidates = candidates[candidates != exclude[i]]
            difference = references[candidates].astype(np.float64) - queries[i]
            exact = np.sqrt(np.sum(difference**2, axis=1))
            index[i] = candidates[exact.argmin()]
            distance[i] = exact.min()
    return Nearest(index, distance)


def calibrated_threshold(held_out_distance: Float[np.ndarray, " held_out"]) -> float:
    """The first percentile of the held-out real samples' distances to the training set.

    The percentile is the one that a fresh real sample undercuts with a probability of 1% in
    expectation (Weibull's plotting position, k / (n + 1)). With fewer than 99 held-out samples it
    is their smallest distance, and the probability is 1 / (n + 1).

    Raises:
        UserError: There is no held-out sample.
    """
    if held_out_distance.size == 0:
        raise UserError(
            "The memorisation threshold needs held-out real radiographs and there are none: "
            "use a larger held-out split."
        )
    return float(np.percentile(held_out_distance, 1, method="weibull"))


def is_authentic(
    found: Nearest, train: Float[np.ndarray, "train dim"]
) -> Bool[np.ndarray, " query"]:
    """Authenticity (Alaa et al. 2022, arXiv 2102.08921): d(y, x*) > d(x*, NN(x*)).

    x* is the training sample nearest to the synthetic sample y, and NN(x*) the training sample
    nearest to x* other than itself.

    Args:
        found: Nearest training sample of each synthetic sample, from `nearest`.
        train: The training samples that were searched.
    """
    star, back = np.unique(found.index, return_inverse=True)
    spacing = nearest(train[star], train, exclude=star).distance
    return found.distance > spacing[back]


def audit(
    synthetic: Float[np.ndarray, "sample dim"],
    train: Float[np.ndarray, "train dim"],
    held_out: Float[np.ndarray, "held_out dim"],
) -> Audit:
    """Compares synthetic samples with the training set they may have been copied from.

    Args:
        synthetic: Samples of the generator.
        train: The generator's training samples.
        held_out: Real samples of other patients: they say how near is near by chance.

    Raises:
        UserError: The training set has fewer than two samples or the held-out set none.
    """
    found = nearest(synthetic, train)
    threshold = calibrated_threshold(nearest(held_out, train).distance)
    return Audit(
        nearest=found,
        threshold=threshold,
        chance_share=max(0.01, 1 / (len(held_out) + 1)),
        flagged=found.distance <= threshold,
        authentic=is_authentic(found, train),
    )
