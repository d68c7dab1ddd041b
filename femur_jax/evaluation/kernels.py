"""Kernel distance (KID, MMD) of two sets, with its standard error and a test by permutation.

Samples of one patient resemble each other. So pairs of samples of the same patient count nowhere,
the standard error is over patients, and whole patients are permuted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist

from femur_jax.errors import UserError

MIN_SAMPLES = 4
"""Fewest samples, and fewest patients, of a set for a kernel distance with a standard error."""

LARGEST = 2000
"""Samples of both sets together whose pairs are all compared; larger sets are cut into parts."""

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Functions of (m, dim) and (n, dim) that return (m, n)."""


@dataclass(frozen=True)
class KernelDistance:
    """Unbiased MMD^2 of two sets.

    Attributes:
        value: U-statistic, which is negative for some equal distributions.
        standard_error: Standard error over patients, by the jackknife.
        p_value: Share of permutations of the patients with such a value or a greater one, or nan
            without permutations.
    """

    value: float
    standard_error: float
    p_value: float


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
        middle = x.mean(axis=0)  # near zero, a difference of squares loses no digits
        x, y = x - middle, y - middle
        squared = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1) - 2 * x @ y.T
        return np.exp(np.maximum(squared, 0) / (-2 * bandwidth**2))

    return kernel


def median_distance(x: Float[np.ndarray, "n dim"], *, most: int = 1000) -> float:
    """Median distance of a set's samples, the usual bandwidth where none is published."""
    return float(np.median(pdist(x[:: -(-len(x) // most)].astype(np.float64))))


def kernel_distance(
    real: Float[np.ndarray, "n_real dim"],
    synthetic: Float[np.ndarray, "n_synthetic dim"],
    kernel: Kernel = cubic_kernel,
    *,
    patients: tuple[Sequence[str], Sequence[str]] | None = None,
    labels: tuple[Sequence[str], Sequence[str]] | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Unbiased MMD^2 (Gretton et al. 2012, Lemma 6); with the cubic kernel, KID (arXiv 1801.01401).

    The value is the U-statistic of the whole sets. Sets of more than LARGEST samples are cut into
    parts by patients, whose values are averaged: all pairs of so many would take too long.

    Args:
        real: Features of the first set.
        synthetic: Features of the second set.
        kernel: Kernel of two sets of features.
        patients: Patient of each sample of both sets; each has its own where None. No patient is in
            both sets.
        labels: Class of each sample of both sets, within which patients are permuted, so that the
            classes keep their shares; all have one where None.
        permutations: Number of permutations; 0 leaves the p value out.
        seed: Seed of the permutations, and of the parts.

    Raises:
        UserError: A set has fewer than four samples or patients, or features that are not finite.
    """
    rng = np.random.default_rng(seed)
    x = np.concatenate(
        [checked(f, name, MIN_SAMPLES) for f, name in ((real, "real"), (synthetic, "synthetic"))]
    )
    is_real = np.arange(len(x)) < len(real)
    names = [*patients[0], *patients[1]] if patients else range(len(x))
    patient = _numbered([(name, bool(first)) for name, first in zip(names, is_real, strict=True)])
    stratum = _numbered([*labels[0], *labels[1]]) if labels else np.zeros(len(x), int)
    sets = [np.unique(patient[is_real]), np.unique(patient[~is_real])]
    for people, name in zip(sets, ("real", "synthetic"), strict=True):
        if len(people) < MIN_SAMPLES:
            raise UserError(
                f"The {name} set has radiographs of {len(people)} patients and this distance needs "
                f"at least {MIN_SAMPLES}: add patients or leave the distance out."
            )
    count = min(-(-len(x) // LARGEST), min(map(len, sets)) // MIN_SAMPLES)
    if count > 1:
        sets = [rng.permutation(people) for people in sets]
    parts = []
    for people in zip(*(np.array_split(people, count) for people in sets), strict=True):
        members = np.flatnonzero(np.isin(patient, np.concatenate(people)))
        chosen = x[members]  # one array, whose product with itself takes half the time
        sums = _Sums.of(kernel(chosen, chosen), patient[members])
        _, first = np.unique(patient[members], return_index=True)
        own = is_real[members][first]
        masks = _permuted(own, stratum[members][first], permutations, rng)
        parts.append((sums.mmd2(masks), sums.jackknife_variance(own)))
    values = np.mean([value for value, _ in parts], axis=0)
    # Equal values differ by rounding, which depends on the order of the sum.
    as_great = values[1:] >= values[0] - 1e-12 * abs(values[0])
    return KernelDistance(
        value=float(values[0]),
        standard_error=float(np.sqrt(np.mean([v for _, v in parts]) / len(parts))),
        p_value=float((1 + as_great.sum()) / (1 + permutations)) if permutations else float("nan"),
    )


def _numbered(names: Sequence[object]) -> Int[np.ndarray, " sample"]:
    """The number of each name in the order in which they first occur."""
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names])


def _permuted(
    is_real: np.ndarray, stratum: np.ndarray, permutations: int, rng: np.random.Generator
) -> Float[np.ndarray, "mask patient"]:
    """Patients of the real set: the true ones first, then permuted within each stratum."""
    masks = np.tile(is_real.astype(float), (1 + permutations, 1))
    for s in np.unique(stratum):
        members = np.flatnonzero(stratum == s)
        masks[1:, members] = rng.permuted(masks[1:, members], axis=1)
    return masks


@dataclass(frozen=True)
class _Sums:
    """Sums of the kernel over pairs of samples of two different patients.

    Attributes:
        pair: Sum for each two patients; zero for a patient with itself.
        samples: Number of samples of each patient.
    """

    pair: Float[np.ndarray, "patient patient"]
    samples: Float[np.ndarray, " patient"]

    @classmethod
    def of(
        cls, values: Float[np.ndarray, "sample sample"], patient: Int[np.ndarray, " sample"]
    ) -> "_Sums":
        order = np.argsort(patient, kind="stable")
        _, starts, counts = np.unique(patient[order], return_index=True, return_counts=True)
        if len(starts) < len(order):
            values = values[np.ix_(order, order)]
            values = np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)
        np.fill_diagonal(values, 0.0)
        return cls(values, counts.astype(float))

    def mmd2(self, masks: Float[np.ndarray, "mask patient"]) -> Float[np.ndarray, " mask"]:
        """U-statistic for each choice of the patients of the first set."""
        total, squares = self.pair.sum(), self.samples**2
        xx = np.sum(masks @ self.pair * masks, axis=1)
        xy = masks @ self.pair.sum(axis=1) - xx
        nx = masks @ self.samples
        ny = self.samples.sum() - nx
        nxx, nyy = nx**2 - masks @ squares, ny**2 - (1 - masks) @ squares
        return xx / nxx + (total - xx - 2 * xy) / nyy - 2 * xy / (nx * ny)

    def jackknife_variance(self, is_real: np.ndarray) -> float:
        """Variance of the U-statistic over patients of both sets, each left out in turn."""
        variance = 0.0
        for own in (is_real, ~is_real):
            to_own, to_other = (self.pair @ mask.astype(float) for mask in (own, ~own))
            n, m = self.samples[own].sum(), self.samples[~own].sum()
            left, squares = n - self.samples[own], self.samples[own] ** 2
            within = (to_own[own].sum() - 2 * to_own[own]) / (left**2 - (squares.sum() - squares))
            between = (to_other[own].sum() - to_other[own]) / (left * m)
            values = within - 2 * between  # the other set's own term is the same for all
            variance += (len(values) - 1) * np.var(values)
        return float(variance)


def checked(
    features: Float[np.ndarray, "n dim"], name: str, minimum: int
) -> Float[np.ndarray, "n dim"]:
    """Features in float64, after the checks that give a user a clear sentence.

    Raises:
        UserError: There are fewer than `minimum` samples, or features that are not finite.
    """
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
