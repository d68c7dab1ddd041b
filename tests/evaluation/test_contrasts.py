"""Differences of arms against their equation, and how often equal and unequal ones are called."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks import rates
from femur_jax.evaluation.contrasts import (
    Conclusion,
    Contrast,
    adjusted,
    auc_difference,
    conclude,
)
from femur_jax.evaluation.statistics import Interval, PatientScores, delong


def arms(seed: int, trainings: int = 3):
    return rates.two_arms(np.random.default_rng(seed), 40, 60, trainings=trainings)


def test_a_difference_by_its_equation():
    """DeLong's variance of patients, s^2 / k of each arm, Satterthwaite's degrees of freedom."""
    first, second = arms(0)
    got = auc_difference(first, second)
    areas = [[roc_auc_score(c.positive, c.score) for [c] in arm] for arm in (first, second)]
    value = np.mean(areas[0]) - np.mean(areas[1])
    weight = np.array([1, 1, 1, -1, -1, -1]) / 3
    every = np.stack([c.score for [c] in (*first, *second)])
    positive = first[0][0].positive
    psi = (every[:, positive, None] > every[:, None, ~positive]).astype(float)
    contrast = np.tensordot(weight, psi, axes=1)
    parts = [contrast.mean(1).var(ddof=1) / 40, contrast.mean(0).var(ddof=1) / 60]
    assert sum(parts) == pytest.approx(weight @ delong(every, positive)[1] @ weight)
    parts += [np.var(a, ddof=1) / 3 for a in areas]
    variance = sum(parts)
    df = variance**2 / sum(p**2 / d for p, d in zip(parts, (39, 59, 2, 2), strict=True))
    half = stats.t.isf(0.025, df) * np.sqrt(variance)
    ends = got.difference.value, got.difference.low, got.difference.high
    assert ends == pytest.approx((value, value - half, value + half))
    assert got.p_value == pytest.approx(2 * stats.t.sf(abs(value) / np.sqrt(variance), df))
    assert got.trainings == 3


def test_classifiers_of_one_generator_are_averaged():
    first, second = rates.two_arms(
        np.random.default_rng(1), 40, 60, classifiers=2, of_classifiers=0.05
    )
    real = rates.alone(second)[:3]
    got = auc_difference(first, [[c for [c] in real]], second_is_real=True)
    means = [np.mean([roc_auc_score(c.positive, c.score) for c in own]) for own in first]
    reals = [roc_auc_score(c.positive, c.score) for [c] in real]
    assert got.difference.value == pytest.approx(np.mean(means) - np.mean(reals))
    assert got.trainings == 3
    every = np.stack([c.score for own in (*first, *real) for c in own])
    weight = np.repeat([1 / 6, -1 / 3], [6, 3])
    variance = weight @ delong(every, first[0][0].positive)[1] @ weight
    variance += np.var(means, ddof=1) / 3 + np.var(reals, ddof=1) / 3
    statistic = abs(got.difference.value) / np.sqrt(variance)
    # The interval's half width over the statistic's scale is the quantile of some t.
    quantile = (got.difference.high - got.difference.value) / np.sqrt(variance)
    assert stats.t.sf(quantile, 2) > 0.025 > stats.norm.sf(quantile)
    assert 2 * stats.norm.sf(statistic) < got.p_value < 2 * stats.t.sf(statistic, 2)
    # With one generator the interval is over its classifiers, and no other training.
    assert auc_difference(first[:1], second).trainings == 1


def test_the_interval_excludes_zero_where_p_is_below_five_percent():
    for seed in range(40):
        first, second = rates.two_arms(
            np.random.default_rng(seed), 30, 40, difference=0.02 * (seed % 8)
        )
        got = auc_difference(first, second)
        assert (got.p_value < 0.05) == (got.difference.low > 0 or got.difference.high < 0)


@pytest.mark.parametrize(("positives", "negatives"), [(28, 42), (60, 240)])
def test_equal_arms_are_called_different_in_at_most_one_study_of_twenty(positives, negatives):
    rate = rates.contrast_rate(600, positives, negatives)
    assert rate.value < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_a_generator_counts_once_however_many_classifiers_it_has():
    """As trainings of their own, classifiers would make differences of generators certain."""
    arms = {"classifiers": 3, "of_classifiers": 0.01, "deviation": 0.06}
    right, wrong = (rates.contrast_rate(150, 40, 80, nested=n, **arms) for n in (True, False))
    assert right.value < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150) < wrong.value


def test_unequal_arms_are_told_apart():
    assert rates.contrast_rate(100, 60, 240, difference=0.15).value > 0.8


def test_without_variance_nothing_is_computed():
    positive = np.arange(10) < 4
    perfect = [[PatientScores(positive + 0.01 * n, positive)] for n in range(3)]
    got = auc_difference(perfect, perfect)
    assert got.difference.value == pytest.approx(0, abs=1e-12)
    assert np.isnan([got.p_value, got.difference.low]).all()
    assert conclude(got, 0.05) is Conclusion.NOT_COMPUTED
    alone = [[PatientScores(np.array([0.9, 0.1, 0.2]), np.array([True, False, False]))] * 2]
    assert conclude(auc_difference(alone, alone), 0.05) is Conclusion.NOT_COMPUTED


def contrast(value: float, low: float, high: float, p: float, trainings: int = 3) -> Contrast:
    return Contrast(Interval(value, low, high), p, p, trainings)


@pytest.mark.parametrize(
    ("shown", "conclusion"),
    [
        (contrast(0.12, 0.06, 0.18, 0.001), Conclusion.FIRST),
        (contrast(-0.12, -0.18, -0.06, 0.001), Conclusion.SECOND),
        (contrast(0.06, 0.01, 0.11, 0.02), Conclusion.FIRST_SLIGHTLY),
        (contrast(-0.06, -0.11, -0.01, 0.02), Conclusion.SECOND_SLIGHTLY),
        (contrast(0.03, -0.02, 0.08, 0.2), Conclusion.UNDECIDED),
        (contrast(0.01, -0.03, 0.04, 0.6), Conclusion.EQUIVALENT),
        (contrast(0.0004, 0.00001, 0.0008, 0.04), Conclusion.EQUIVALENT),
        (contrast(0.12, 0.06, 0.18, 0.001, trainings=1), Conclusion.ONE_TRAINING),
    ],
)
def test_a_conclusion_knows_what_matters(shown: Contrast, conclusion: Conclusion):
    assert conclude(shown, 0.05) is conclusion


def test_a_family_is_corrected_and_what_is_not_computed_stays_out_of_it():
    nan = float("nan")
    family = [contrast(0.1, 0.0, 0.2, p) for p in (0.02, nan, 0.03)]
    first, none, last = adjusted(family)
    assert (first.p_adjusted, last.p_adjusted) == pytest.approx((0.04, 0.04))
    assert np.isnan(none.p_adjusted) and first.p_value == 0.02
    assert conclude(adjusted(family[:1] * 3)[0], 0.05) is Conclusion.UNDECIDED
