"""One set of features compared with a real one by every distance, and what to make of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.distances import (
    Estimate,
    frechet_distance,
    frechet_distance_infinity,
    gaussian_kernel,
    kernel_distance,
    median_distance,
)
from femur_jax.evaluation.manifold import Manifold, manifold

FEWEST = 10
"""Samples of a set that can be compared: FID's extrapolation takes a fifth of them."""


@dataclass(frozen=True)
class Comparison:
    """Distances of a set from a real one; each means something only beside its floor's.

    Attributes:
        n_real: Samples of the real set.
        n_compared: Samples of the other.
        dim: Features.
        kid: Unbiased, so the first to look at.
        mmd: With a Gaussian kernel as wide as the real set's median distance; unbiased.
        fid: Biased upwards in small sets.
        fid_infinity: The same, extrapolated to infinite sets.
        manifold: Precision, recall, density and coverage.
    """

    n_real: int
    n_compared: int
    dim: int
    kid: Estimate
    mmd: Estimate
    fid: float
    fid_infinity: float
    manifold: Manifold

    @property
    def caveat(self) -> str:
        """What FID's sample sizes mean, in a sentence; empty where there is nothing to say."""
        n = min(self.n_real, self.n_compared)
        if n > self.dim:
            return ""
        return (
            f"FID is of {n} samples with {self.dim} features: a covariance of so few has not its "
            "full rank, FID is far too large and its extrapolation uncertain; go by KID, and by "
            "the floor."
        )


def compare(
    real: Float[np.ndarray, "n_real dim"], other: Float[np.ndarray, "n_other dim"]
) -> Comparison:
    """Compares a set, synthetic or for a floor real as well, with a real one.

    Raises:
        UserError: A set has fewer than FEWEST samples, or features that are not finite.
    """
    fewest = min(len(real), len(other))
    if fewest < FEWEST:
        raise UserError(
            f"Distances between {len(real)} real and {len(other)} other samples mean nothing; "
            f"use {FEWEST} or more of each, by a larger split or a larger config.sample.per_label."
        )
    return Comparison(
        n_real=len(real),
        n_compared=len(other),
        dim=real.shape[1],
        kid=kernel_distance(real, other),
        # Where most real samples are the same, any width will do.
        mmd=kernel_distance(real, other, gaussian_kernel(median_distance(real) or 1.0)),
        fid=frechet_distance(real, other),
        fid_infinity=frechet_distance_infinity(real, other),
        manifold=manifold(real, other),
    )


def drawn_alike(
    dataset: RadiographDataset,
    candidates: Sequence[int],
    labels: Sequence[str],
    *,
    most: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Real radiographs with the class shares of another set, as many as there are.

    Synthetic sets often have as many AFF as NFF and patients have not: without this, a distance
    would tell the shares and not the pictures.

    Args:
        dataset: Of real radiographs.
        candidates: Those that may be drawn.
        labels: Of the other set.
        most: At most as many.
        seed: Of the draw, without replacement.

    Raises:
        UserError: A class of the other set has no candidate.
    """
    rng = np.random.default_rng(seed)
    of_label = {
        label: [n for n in candidates if dataset.entries[n].label == label]
        for label in sorted(set(labels))
    }
    missing = [label for label, found in of_label.items() if not found]
    if missing:
        raise UserError(
            f"{dataset.folder} has no {missing[0]} radiograph in the split that synthetic ones "
            "are compared with; use a larger split, or make radiographs of the other class alone."
        )
    shares = {label: labels.count(label) / len(labels) for label in of_label}
    total = min(len(found) / shares[label] for label, found in of_label.items())
    total = min(total, most) if most is not None else total
    drawn = [
        rng.choice(found, int(total * shares[label] + 1e-9), replace=False)
        for label, found in of_label.items()
    ]
    return sorted(int(n) for n in np.concatenate(drawn))
