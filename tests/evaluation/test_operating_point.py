"""Thresholds from validation patients: counts by hand, and the specificity of new patients."""

import numpy as np
import pytest
from scipy.stats import binomtest

from femur_jax.evaluation.operating_point import false_alarms, operating_point
from femur_jax.evaluation.statistics import PatientScores


def scores(negatives, positives) -> PatientScores:
    positive = np.repeat([False, True], [len(negatives), len(positives)])
    return PatientScores(np.concatenate([negatives, positives]).astype(float), positive)


def test_rates_at_the_threshold_of_other_patients():
    validation = scores(range(39), [50])  # one false alarm is allowed, so the threshold is 37
    test = scores([0, 36, 37, 38, 60], [10, 38, 39, 40])
    got = operating_point([(validation, test)])
    assert (got.allowed, got.validation_negatives) == (1, 39)
    assert (got.specificity.value, got.sensitivity.value) == (3 / 5, 3 / 4)
    exact = binomtest(3, 4).proportion_ci()
    assert (got.sensitivity.low, got.sensitivity.high) == (exact.low, exact.high)


def test_folds_are_counted_together_at_thresholds_of_their_own():
    low, high = scores(range(39), [50]), scores(range(100, 139), [150])
    test = scores([37, 38], [138])
    got = operating_point([(low, test), (high, test)])
    assert got.specificity.value == 3 / 4 and got.sensitivity.value == 2 / 2
    assert (got.allowed, got.validation_negatives) == (2, 78)


@pytest.mark.parametrize("negatives", [19, 25, 42, 100])
def test_new_patients_keep_the_specificity_in_expectation(negatives: int):
    """The share of new patients above the k-th largest of n is (k + 1) / (n + 1), k allowed."""
    rng = np.random.default_rng(negatives)
    validation = np.sort(rng.normal(size=(4000, negatives)), axis=1)
    k = false_alarms(negatives, 0.95)
    above = rng.normal(size=4000) > validation[:, -1 - k]
    assert above.mean() == pytest.approx((k + 1) / (negatives + 1), abs=0.012)
    assert (k + 1) / (negatives + 1) <= 0.05 < (k + 2) / (negatives + 1)


def test_too_few_patients_allow_no_false_alarm():
    assert false_alarms(18, 0.95) == false_alarms(5, 0.95) == 0
