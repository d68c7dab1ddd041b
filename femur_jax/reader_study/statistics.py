"""Statistics of one or two readers: exact intervals, equivalence, paired tests and agreement."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int
from sklearn.metrics import cohen_kappa_score

from femur_jax.evaluation.statistics import Interval, PatientScores, area_variance, roc_auc


def proportion(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Returns a proportion with its exact interval (Clopper and Pearson 1934)."""
    interval = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="exact")
    return Interval(successes / n, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Guessing:
    """Two tests of a reader against guessing, at 0.5.

    Attributes:
        p: P value of the hypothesis that the reader guesses.
        p_equivalence: P value of the hypothesis that the reader is off 0.5 by the margin or more:
            the greater of two one-sided tests (Schuirmann 1987).
    """

    p: float
    p_equivalence: float


def share_against_guessing(successes: int, n: int, margin: float) -> Guessing:
    """Exact tests of a share of correct answers.

    `p_equivalence` is below 0.05 if and only if the exact 90% interval lies within the margin.
    """
    return Guessing(
        p=float(scipy.stats.binomtest(successes, n).pvalue),
        p_equivalence=max(
            float(scipy.stats.binomtest(successes, n, 0.5 - margin, "greater").pvalue),
            float(scipy.stats.binomtest(successes, n, 0.5 + margin, "less").pvalue),
        ),
    )


def area_against_guessing(
    value: float, positive: Bool[np.ndarray, " case"], margin: float
) -> Guessing:
    """Tests of an area under the ROC curve, by the same variance as the interval of `roc_area`.

    The share of correct answers would not do: a reader who rarely says synthetic has half of them
    right, however well the ratings separate the two.
    """

    def z(area: float) -> float:
        m = int(positive.sum())
        return (value - area) / float(np.sqrt(area_variance(area, m, positive.size - m)))

    norm = scipy.stats.norm
    return Guessing(
        p=float(2 * norm.sf(abs(z(0.5)))),
        p_equivalence=float(max(norm.sf(z(0.5 - margin)), norm.cdf(z(0.5 + margin)))),
    )


def roc_area(ratings: Float[np.ndarray, " case"], positive: Bool[np.ndarray, " case"]) -> Interval:
    """Empirical area under the ROC curve of one reader, with its interval over cases."""
    return roc_auc(PatientScores(ratings, positive))


def paired_difference(
    first: Int[np.ndarray, " pair"], second: Int[np.ndarray, " pair"]
) -> tuple[float, float]:
    """Mean difference of ratings, and p of Wilcoxon's signed-rank test with zeros as in Pratt 1959.

    Ties and zeros rule out the exact distribution, so p comes from the normal approximation. It is
    1 if all differences are zero.
    """
    difference = (first - second).astype(float)
    if not difference.any():
        return 0.0, 1.0
    test: Any = scipy.stats.wilcoxon(difference, zero_method="pratt", method="asymptotic")
    return float(difference.mean()), float(test.pvalue)


def kappa(first: Int[np.ndarray, " case"], second: Int[np.ndarray, " case"]) -> float:
    """Cohen's kappa of two readings; nan if all answers of both are the same."""
    return _kappa(first, second, np.union1d(first, second), None)


def weighted_kappa(
    first: Int[np.ndarray, " case"], second: Int[np.ndarray, " case"], steps: int
) -> float:
    """Cohen's kappa on a scale from 1 to `steps`, with linear weights."""
    return _kappa(first, second, np.arange(1, steps + 1), "linear")


def _kappa(
    first: Int[np.ndarray, " case"],
    second: Int[np.ndarray, " case"],
    labels: Int[np.ndarray, " label"],
    weights: str | None,
) -> float:
    if len(np.union1d(first, second)) < 2:
        return float("nan")
    return float(cohen_kappa_score(first, second, labels=labels, weights=weights))


def detectable_accuracy(n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest accuracy above 0.5 that an exact two-sided test of n readings detects.

    The test detects it with a probability of `power`. The result is nan if n is so small that not
    even n correct answers are significant.
    """
    k = np.arange(n + 1)
    significant = k[scipy.stats.binom.sf(k - 1, n, 0.5) <= alpha / 2]
    if not significant.size:
        return float("nan")
    # As a function of the accuracy, P(at least k correct) is the CDF of Beta(k, n - k + 1).
    return float(scipy.stats.beta.ppf(power, significant[0], n - significant[0] + 1))


def equivalence_power(n: int, margin: float, alpha: float = 0.05) -> float:
    """Probability that n readings of a guessing reader show equivalence within 0.5 +- margin."""
    k = np.arange(n + 1)
    lower = scipy.stats.binom.sf(k - 1, n, 0.5 - margin) < alpha
    upper = scipy.stats.binom.cdf(k, n, 0.5 + margin) < alpha
    return float(scipy.stats.binom.pmf(k, n, 0.5)[lower & upper].sum())


def area_equivalence_power(n: int, margin: float, alpha: float = 0.05) -> float:
    """Probability that n ratings, half of them of each kind, show the equivalence of their area.

    The reader guesses, and the area is normal.
    """
    null, limit = (np.sqrt(area_variance(a, n // 2, n - n // 2)) for a in (0.5, 0.5 + margin))
    room = margin - scipy.stats.norm.isf(alpha) * limit
    return float(max(2 * scipy.stats.norm.cdf(room / null) - 1, 0.0))


def fewest_for_equivalence(margin: float) -> int:
    """Smallest even number of answers that can show equivalence within 0.5 +- margin at all."""
    n = 2
    while equivalence_power(n, margin) == 0:
        n += 2
    return n
