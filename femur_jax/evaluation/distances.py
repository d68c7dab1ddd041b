"""Distances between two sets of feature vectors: FID, KID and MMD."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist, pdist

from femur_jax.errors import UserError

MIN_SAMPLES = 4
"""The smallest set that a kernel distance with a standard error can be computed of."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error."""

    value: float
    standard_error: float


def frechet_distance(
    real: Float[np.ndarray, "n_real dim"], synthetic: Float[np.ndarray, "n_synthetic dim"]
) -> float:
    """Fréchet distance between Gaussians fitted to two sets (FID; Heusel 2017, arXiv 1706.08500).

    d^2 = |mu_r - mu_s|^2 + tr(C_r) + tr(C_s) - 2 tr((C_r C_s)^(1/2)), in float64. The estimate
    is biased upwards in small sets: compare only with a floor from sets of the same sizes.

    With triangular factors C = R^T R, the eigenvalues of C_r C_s are the squared singular values
    of R_r R_s^T, so the last trace is a sum of singular values. No covariance is inverted or
    squared, and one of less than full rank (fewer samples than dimensions) needs no regularising.

    Raises:
        UserError: A set has fewer than two samples, or features that are not finite.
    """
    mu_r, R_r = _mean_and_factor(_checked(real, "real", minimum=2))
    mu_s, R_s = _mean_and_factor(_checked(synthetic, "synthetic", minimum=2))
    d2 = (
        np.sum((mu_r - mu_s) ** 2)
        + np.sum(R_r**2)
        + np.sum(R_s**2)
        - 2 * np.linalg.norm(R_r @ R_s.T, "nuc")
    )
    return max(float(d2), 0.0)  # rounding may leave equal sets a little under zero


def frechet_distance_infinity(
    real: Float[np.ndarray, "n_real dim"],
    synthetic: Float[np.ndarray, "n_synthetic dim"],
    *,
    points: int = 8,
    seed: int = 0,
) -> float:
    """FID extrapolated to infinite sets (FD-infinity; Chong and Forsyth 2020, arXiv 1911.07023).

    FID's bias goes with 1/n in large sets. It is computed on random parts of both sets, of a
    fifth to all samples, and the straight line through the values over 1/share is followed to
    zero; the original makes the synthetic set smaller alone, which leaves the real set's bias.
    With fewer samples than dimensions the bias is no longer linear, and some of it remains.

    Raises:
        UserError: As `frechet_distance` for a fifth of the samples.
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


Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(m, dim) and (n, dim) to (m, n)."""


def cubic_kernel(
    x: Float[np.ndarray, "m dim"], y: Float[np.ndarray, "n dim"]
) -> Float[np.ndarray, "m n"]:
    """(x.y / dim + 1)^3, the kernel of KID (Binkowski et al. 2018, equation 4)."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def gaussian_kernel(bandwidth: float) -> Kernel:
    """exp(-|x - y|^2 / (2 bandwidth^2)); CMMD has 10, on CLIP's features (arXiv 2401.09603)."""

    def kernel(
        x: Float[np.ndarray, "m dim"], y: Float[np.ndarray, "n dim"]
    ) -> Float[np.ndarray, "m n"]:
        return np.exp(cdist(x, y, "sqeuclidean") / (-2 * bandwidth**2))

    return kernel


def median_distance(x: Float[np.ndarray, "n dim"], *, most: int = 1000) -> float:
    """The usual bandwidth where none is published: the median distance of a set's samples."""
    return float(np.median(pdist(x[:: -(-len(x) // most)].astype(np.float64))))


def kernel_distance(
    real: Float[np.ndarray, "n_real dim"],
    synthetic: Float[np.ndarray, "n_synthetic dim"],
    kernel: Kernel = cubic_kernel,
    *,
    subsets: int = 10,
    seed: int = 0,
) -> Estimate:
    """Unbiased MMD^2; with the cubic kernel, KID (Binkowski et al. 2018, arXiv 1801.01401).

    Both sets are shuffled and cut into disjoint subsets, at most `subsets` and no smaller than
    two samples; the mean and the standard error are over the subsets' MMD^2. Disjoint subsets
    are independent, which the overlapping ones of the original are not, so that the standard
    error holds. The value may be negative: its expectation is zero for equal distributions.

    Raises:
        UserError: A set has fewer than four samples, or features that are not finite.
    """
    real = _checked(real, "real", minimum=MIN_SAMPLES)
    synthetic = _checked(synthetic, "synthetic", minimum=MIN_SAMPLES)
    rng = np.random.default_rng(seed)
    k = min(subsets, len(real) // 2, len(synthetic) // 2)
    parts_r = np.array_split(rng.permutation(real), k)
    parts_s = np.array_split(rng.permutation(synthetic), k)
    mmd2 = [unbiased_mmd2(x, y, kernel) for x, y in zip(parts_r, parts_s, strict=True)]
    return Estimate(float(np.mean(mmd2)), float(np.std(mmd2, ddof=1) / np.sqrt(k)))


def unbiased_mmd2(
    x: Float[np.ndarray, "m dim"], y: Float[np.ndarray, "n dim"], kernel: Kernel = cubic_kernel
) -> float:
    """U-statistic of MMD^2 (Gretton et al. 2012, Lemma 6)."""
    m, n = len(x), len(y)
    k_xx, k_yy = kernel(x, x), kernel(y, y)
    within_x = (k_xx.sum() - np.trace(k_xx)) / (m * (m - 1))
    within_y = (k_yy.sum() - np.trace(k_yy)) / (n * (n - 1))
    return float(within_x + within_y - 2 * kernel(x, y).mean())


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


def _checked(
    features: Float[np.ndarray, "n dim"], name: str, minimum: int
) -> Float[np.ndarray, "n dim"]:
    """The features in float64, after the checks that give a user a clear sentence."""
    if len(features) < minimum:
        raise UserError(
            f"The {name} set has {len(features)} samples and this distance needs at least "
            f"{minimum}: add radiographs of that class or leave the distance out."
        )
    if not np.isfinite(features).all():
        raise UserError(
            f"Features of the {name} set are not finite: look for broken images in it, or for a "
            "feature extractor that diverged."
        )
    return features.astype(np.float64)
