"""Differences between arms: over new patients and new trainings, with a margin set beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtr, stdtrit

from femur_jax.evaluation.statistics import (
    Interval,
    Trainings,
    area,
    delong_parts,
    holm,
    independent_areas,
    on_same_patients,
)

FEW_PATIENTS = 10
"""Number of patients of a class below which DeLong's variance is unreliable."""


@dataclass(frozen=True)
class Contrast:
    """Difference of the mean areas under the curve of two arms, on the same patients.

    Attributes:
        difference: First less second, with its interval; the ends are nan where nothing varies,
            and where a class has a single patient.
        p_value: Two-sided p of no difference, by the same t as the interval, or nan.
        p_adjusted: `p_value` after a correction for other comparisons, or `p_value` without one.
        trainings: Trainings of generators in the arm that has fewer. With one, the interval holds
            for the set of radiographs at hand and says nothing about another training.
    """

    difference: Interval
    p_value: float
    p_adjusted: float
    trainings: int


def auc_difference(
    first: Trainings,
    second: Trainings,
    *,
    second_is_real: bool = False,
    confidence: float = 0.95,
) -> Contrast:
    """Compares two arms, each trained once or several times and tested on the same patients.

    The variance is the sum of DeLong's, for new patients, and of s^2 / k of each arm, for new
    trainings, with s^2 the variance of its k independent areas: those of generators, whose
    classifiers are averaged and leave their own chance within s^2, or with one generator those of
    its classifiers. Degrees of freedom are Satterthwaite's, where DeLong's two parts count as means
    over the patients of each class.

    Args:
        first: Classifiers of one arm.
        second: Classifiers of the other arm.
        second_is_real: Whether the second arm has no generator that might be trained again.
        confidence: Probability that the interval holds the true difference.

    Raises:
        UserError: The arms were not tested on the same patients.
    """
    arms = (first, second)
    score, positive = on_same_patients([c for arm in arms for training in arm for c in training])
    weight = np.array(
        [
            sign / (len(arm) * len(training))
            for sign, arm in zip((1, -1), arms, strict=True)
            for training in arm
            for _ in training
        ]
    )
    value = float(weight @ area(score, positive))
    parts = _patients(score, positive, weight)
    parts += [part for arm in arms for part in _trainings(arm)] if parts else []
    variance = sum(part for part, _ in parts)
    half = p_value = float("nan")
    if variance > 1e-15:  # rounding leaves less where nothing varies
        freedom = variance**2 / sum(part**2 / df for part, df in parts)
        half = float(stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(variance))
        p_value = float(2 * stdtr(freedom, -abs(value) / np.sqrt(variance)))
    return Contrast(
        difference=Interval(value, value - half, value + half),
        p_value=p_value,
        p_adjusted=p_value,
        trainings=len(first) if second_is_real else min(len(first), len(second)),
    )


def _patients(
    score: Float[np.ndarray, "classifier patient"],
    positive: Bool[np.ndarray, " patient"],
    weight: Float[np.ndarray, " classifier"],
) -> list[tuple[float, int]]:
    """Parts of a difference's variance due to the patients of each class, with their freedom.

    There are none where a class has a single patient.
    """
    counts = int(positive.sum()), int((~positive).sum())
    if min(counts) < 2:
        return []
    _, *covariances = delong_parts(score, positive)
    return [
        (max(float(weight @ covariance @ weight), 0.0), n - 1)
        for covariance, n in zip(covariances, counts, strict=True)
    ]


def _trainings(arm: Trainings) -> list[tuple[float, int]]:
    """The part of a difference's variance due to an arm's trainings; none for one classifier."""
    areas = independent_areas(arm)
    return [(float(np.var(areas, ddof=1)) / len(areas), len(areas) - 1)] if len(areas) > 1 else []


def adjusted(family: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts with Holm's correction for all of the family that have a p value."""
    p_values = iter(holm([c.p_value for c in family if not np.isnan(c.p_value)]))
    return [c if np.isnan(c.p_value) else replace(c, p_adjusted=next(p_values)) for c in family]


class Conclusion(Enum):
    """What a contrast shows, given the least difference that matters.

    NOT_COMPUTED: There is no interval.
    ONE_TRAINING: An arm was trained once, so the arms cannot be compared.
    FIRST, SECOND: This arm is better, by as much as matters or more.
    FIRST_SLIGHTLY, SECOND_SLIGHTLY: This arm is better, perhaps by less than what matters.
    EQUIVALENT: The arms differ by less than what matters.
    UNDECIDED: The interval includes zero and a difference that matters.
    """

    NOT_COMPUTED = "not computed"
    ONE_TRAINING = "one training"
    FIRST = "first"
    SECOND = "second"
    FIRST_SLIGHTLY = "first, slightly"
    SECOND_SLIGHTLY = "second, slightly"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def conclude(contrast: Contrast, relevant: float) -> Conclusion:
    """What a contrast shows at a level of 5%.

    Args:
        contrast: The contrast, after the correction for its family.
        relevant: Least difference of the areas that matters, above 0.
    """
    value, low, high = (getattr(contrast.difference, name) for name in ("value", "low", "high"))
    if np.isnan(contrast.p_value):
        return Conclusion.NOT_COMPUTED
    if contrast.trainings < 2:
        return Conclusion.ONE_TRAINING
    if contrast.p_adjusted < 0.05:
        if min(abs(low), abs(high)) >= relevant:
            return Conclusion.FIRST if value > 0 else Conclusion.SECOND
        if max(abs(low), abs(high)) >= relevant:
            return Conclusion.FIRST_SLIGHTLY if value > 0 else Conclusion.SECOND_SLIGHTLY
    if max(abs(low), abs(high)) < relevant:
        return Conclusion.EQUIVALENT
    return Conclusion.UNDECIDED
