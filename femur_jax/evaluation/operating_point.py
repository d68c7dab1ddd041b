"""Sensitivity and specificity at a threshold that was fixed on other patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from femur_jax.evaluation.statistics import Interval, PatientScores


@dataclass(frozen=True)
class OperatingPoint:
    """Rates at a threshold that was fixed on validation patients.

    Attributes:
        sensitivity: Share of the positive test patients above the threshold, with its exact
            interval (Clopper and Pearson 1934).
        specificity: Share of the negative test patients at or below it, in the same way.
        allowed: Negative validation patients above the threshold.
        validation_negatives: Negative validation patients in all.
    """

    sensitivity: Interval
    specificity: Interval
    allowed: int
    validation_negatives: int


def false_alarms(negatives: int, specificity: float) -> int:
    """Validation patients that may lie above a threshold which new patients keep as often.

    A new patient lies above the threshold that leaves k of n above it with a probability of
    (k + 1) / (n + 1) in expectation, whatever the distribution. With fewer than
    1 / (1 - specificity) - 1 patients none is allowed, and the specificity is not assured.
    """
    return max(int((1 - specificity) * (negatives + 1) + 1e-9) - 1, 0)


def operating_point(
    parts: Sequence[tuple[PatientScores, PatientScores]], specificity: float = 0.95
) -> OperatingPoint:
    """Sensitivity and specificity at the threshold that validation patients set.

    Args:
        parts: Validation and test patients of each classifier, whose test patients are counted
            together; several for a cross-validation.
        specificity: Wanted specificity among new patients.
    """
    hits: list[np.ndarray] = []
    passes: list[np.ndarray] = []
    allowed = negatives = 0
    for validation, test in parts:
        scores = np.sort(validation.score[~validation.positive])
        k = false_alarms(len(scores), specificity)
        called = test.score > scores[-1 - k]
        hits.append(called[test.positive])
        passes.append(~called[~test.positive])
        allowed, negatives = allowed + k, negatives + len(scores)
    return OperatingPoint(
        sensitivity=exact_share(np.concatenate(hits)),
        specificity=exact_share(np.concatenate(passes)),
        allowed=allowed,
        validation_negatives=negatives,
    )


def exact_share(happened: np.ndarray) -> Interval:
    """Share of True with its exact 95% interval (Clopper and Pearson 1934)."""
    ends = binomtest(int(happened.sum()), happened.size).proportion_ci()
    return Interval(float(happened.mean()), float(ends.low), float(ends.high))
