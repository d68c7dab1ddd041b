"""Distances between two sets of feature vectors: FID, precision and recall, and all together."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from femur_jax.errors import UserError
from femur_jax.evaluation.kernels import (
    checked,
    gaussian_kernel,
    kernel_distance,
    median_distance,
)
from femur_jax.evaluation.neighbours import exact_distances, k_nearest, squared_distances

FEWEST = 10
"""The smallest set for all distances: the extrapolation of FID takes a fifth of it."""

_DOUBTFUL = 1e-5  # of |x|^2 + |y|^2: more than float32 products are wrong by


@dataclass(frozen=True)
class Manifold:
    """Fidelity (precision, density) and diversity (recall, coverage).

    The ball around a sample reaches to its k-th nearest neighbour in its own set.

    Attributes:
        precision: Share of synthetic samples within any real ball (Kynkaanniemi et al. 2019, arXiv
            1904.06991, equation 1).
        recall: Share of real samples within any synthetic ball.
        density: Mean number of real balls that a synthetic sample lies in, over k; may exceed 1
            (Naeem et al. 2020, arXiv 2002.09797, equation 4).
        coverage: Share of real balls that hold a synthetic sample (equation 5). For equal
            distributions it is 1 - 2^-k in large sets.
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Distances of a set from a real one; each has a meaning only next to its floor's.

    Attributes:
        n_real: Number of samples of the real set.
        n_compared: Number of samples of the other set.
        dim: Number of features of a sample.
        kid: Kernel distance, unbiased, so the first number to look at.
        kid_error: Standard error of `kid`.
        kid_p: Probability of such a `kid` if both sets were of one kind, by permuted patients.
        mmd: Unbiased squared MMD with a Gaussian kernel as wide as the real set's median distance.
        mmd_error: Standard error of `mmd`.
        fid: Fréchet distance, biased upwards in small sets.
        fid_infinity: Fréchet distance extrapolated to infinite sets; None where a fifth of a set
            has no more samples than features.
        manifold: Precision, recall, density and coverage.
    """

    n_real: int
    n_compared: int
    dim: int
    kid: float
    kid_error: float
    kid_p: float
    mmd: float
    mmd_error: float
    fid: float
    fid_infinity: float | None
    manifold: Manifold

    @property
    def caveat(self) -> str:
        """One sentence on what the sample sizes mean for FID; empty where they are large enough."""
        n = min(self.n_real, self.n_compared)
        if n > self.dim:
            return ""
        return (
            f"FID of {n} samples with {self.dim} features is far too large, since their covariance "
            "does not have full rank: compare KID, and compare with the floor."
        )


def compare(
    real: Float[np.ndarray, "n_real dim"],
    other: Float[np.ndarray, "n_other dim"],
    *,
    patients: tuple[Sequence[str], Sequence[str]] | None = None,
    labels: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Comparison:
    """Compares a set, synthetic or (for a floor) real as well, with a real one.

    Args:
        real: Features of real radiographs or patches.
        other: Features of the compared ones.
        patients: Patient of each sample of both sets; each has its own where None.
        labels: Class of each sample of both sets; all have one where None.

    Raises:
        UserError: A set has fewer than FEWEST samples, or features that are not finite.
    """
    if min(len(real), len(other)) < FEWEST:
        raise UserError(
            f"Distances between {len(real)} real and {len(other)} other samples have no meaning; "
            f"use {FEWEST} or more of each, from a larger split or with a larger "
            "config.sample.per_label."
        )
    kid = kernel_distance(real, other, patients=patients, labels=labels)
    # Where most real samples are equal, any width will do.
    gaussian = gaussian_kernel(median_distance(real) or 1.0)
    mmd = kernel_distance(real, other, gaussian, patients=patients, permutations=0)
    has_infinity = min(len(real), len(other)) // 5 > real.shape[1]
    return Comparison(
        n_real=len(real),
        n_compared=len(other),
        dim=real.shape[1],
        kid=kid.value,
        kid_error=kid.standard_error,
        kid_p=kid.p_value,
        mmd=mmd.value,
        mmd_error=mmd.standard_error,
        fid=frechet_distance(real, other),
        fid_infinity=frechet_distance_infinity(real, other) if has_infinity else None,
        manifold=manifold(real, other),
    )


def frechet_distance(
    real: Float[np.ndarray, "n_real dim"], synthetic: Float[np.ndarray, "n_synthetic dim"]
) -> float:
    """Fréchet distance between Gaussians fitted to two sets (FID; Heusel 2017, arXiv 1706.08500).

    d^2 = |mu_r - mu_s|^2 + tr(C_r) + tr(C_s) - 2 tr((C_r C_s)^(1/2)), in float64. The estimate
    is biased upwards in small sets: compare it only with a floor from sets of the same sizes.

    With triangular factors C = R^T R, the eigenvalues of C_r C_s are the squared singular values
    of R_r R_s^T, so the last trace is a sum of singular values. No covariance is inverted or
    squared, and one of less than full rank (fewer samples than dimensions) needs no regularising.

    Raises:
        UserError: A set has fewer than two samples, or features that are not finite.
    """
    mu_r, R_r = _mean_and_factor(checked(real, "real", minimum=2))
    mu_s, R_s = _mean_and_factor(checked(synthetic, "synthetic", minimum=2))
    d2 = (
        np.sum((mu_r - mu_s) ** 2)
        + np.sum(R_r**2)
        + np.sum(R_s**2)
        - 2 * np.linalg.norm(R_r @ R_s.T, "nuc")
    )
    return max(float(d2), 0.0)  # rounding may leave equal sets slightly below zero


def frechet_distance_infinity(
    real: Float[np.ndarray, "n_real dim"],
    synthetic: Float[np.ndarray, "n_synthetic dim"],
    *,
    points: int = 8,
    seed: int = 0,
) -> float:
    """FID extrapolated to infinite sets (FD-infinity; Chong and Forsyth 2020, arXiv 1911.07023).

    The bias of FID falls as 1/n in large sets. FID is computed on random subsets of both sets,
    from a fifth to all of the samples, and the straight line through the values over 1/share is
    extrapolated to zero; the original shrinks the synthetic set only, which leaves the real set's
    bias. With fewer samples than dimensions the bias is no longer linear, so `compare` leaves the
    extrapolation out where the smallest subset has no more samples than dimensions.

    Raises:
        UserError: A fifth of a set is too small for `frechet_distance`.
    """
    rng = np.random.default_rng(seed)
    inverse = np.linspace(1, 5, points)
    values = [
        frechet_distance(
            *(x[rng.choice(len(x), round(len(x) / i), replace=False)] for x in (real, synthetic))
        )
        for i in inverse
    ]
    return float(np.polynomial.Polynomial.fit(inverse, values, 1)(0.0))


def manifold(
    real: Float[np.ndarray, "real dim"], synthetic: Float[np.ndarray, "synthetic dim"], k: int = 5
) -> Manifold:
    """Precision, recall, density and coverage.

    Distances are computed in float32, and again in float64 where they come close to a radius.

    Args:
        real: Features of real radiographs.
        synthetic: Features of synthetic radiographs.
        k: Neighbours that a ball reaches to: 5 in Naeem et al., 3 in Kynkaanniemi et al.

    Raises:
        UserError: A set has fewer than k + 1 samples.
    """
    r_real, r_synthetic = (
        k_nearest(x, x, k, exclude=np.arange(len(x))).distance[:, -1] for x in (real, synthetic)
    )
    balls = np.empty(len(synthetic), int)  # real balls that hold each synthetic sample
    covered = np.zeros(len(real), bool)
    recalled = np.zeros(len(real), bool)
    norm_real, norm_synthetic = (np.sum((x - real.mean(0)) ** 2, axis=1) for x in (real, synthetic))
    for rows, squared in squared_distances(synthetic, real):
        doubt = _DOUBTFUL * (norm_synthetic[rows, None] + norm_real).astype(np.float32)

        def within(
            radius: Float[np.ndarray, "_ _"],
            rows: slice = rows,
            squared: Float[np.ndarray, "_ _"] = squared,
            doubt: Float[np.ndarray, "_ _"] = doubt,
        ) -> Bool[np.ndarray, "_ _"]:
            gap = squared - (radius**2).astype(np.float32)
            inside = gap <= 0
            y, x = np.nonzero(abs(gap) <= doubt)
            exact = _pair_distances(synthetic[rows], real, y, x)
            inside[y, x] = exact <= np.broadcast_to(radius, squared.shape)[y, x]
            return inside

        in_real = within(r_real[None])
        balls[rows] = in_real.sum(axis=1)
        covered |= in_real.any(axis=0)
        recalled |= within(r_synthetic[rows, None]).any(axis=0)
    return Manifold(
        precision=float(np.mean(balls > 0)),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def _pair_distances(
    queries: Float[np.ndarray, "query dim"],
    references: Float[np.ndarray, "reference dim"],
    q: Int[np.ndarray, " pair"],
    r: Int[np.ndarray, " pair"],
) -> Float[np.ndarray, " pair"]:
    return exact_distances(queries[q], references, r[:, None])[:, 0]


def _mean_and_factor(
    x: Float[np.ndarray, "n dim"],
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "rank dim"]]:
    """Mean and a factor R of the unbiased covariance, R^T R = C."""
    mu = x.mean(axis=0)
    centred = (x - mu) / np.sqrt(len(x) - 1)
    if len(x) > x.shape[1]:
        with contextlib.suppress(np.linalg.LinAlgError):  # raised where the rank is not full
            return mu, np.linalg.cholesky(centred.T @ centred).T  # faster than QR
    return mu, np.asarray(np.linalg.qr(centred, mode="r"))
