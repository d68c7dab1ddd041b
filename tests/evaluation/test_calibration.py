"""Calibration against scikit-learn, and against predictions that are true by construction."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from femur_jax.evaluation.calibration import (
    Platt,
    calibration,
    expected_calibration_error,
    left_out_probabilities,
    probability,
)
from femur_jax.evaluation.statistics import PatientScores


def true_predictions(rng: np.random.Generator, n: int):
    """Predictions that come true as often as they say."""
    predicted = rng.beta(0.8, 2.5, n)
    return predicted, rng.random(n) < predicted


def test_bins_agree_with_scikit_learn():
    predicted, positive = true_predictions(np.random.default_rng(0), 400)
    got = calibration(predicted**1.3, positive)
    observed, mean = calibration_curve(positive, predicted**1.3, n_bins=10, strategy="quantile")
    np.testing.assert_allclose([b.observed for b in got.bins], observed)
    np.testing.assert_allclose([b.predicted for b in got.bins], mean)
    assert got.error == pytest.approx(np.mean(abs(observed - mean)))
    assert got.brier == pytest.approx(np.mean((positive - predicted**1.3) ** 2))
    assert all(b.low <= b.observed <= b.high for b in got.bins)


def test_error_of_true_predictions_is_what_chance_gives():
    rng = np.random.default_rng(1)
    sets = [calibration(*true_predictions(rng, 150), seed=n, resamples=100) for n in range(60)]
    errors, chance = (np.mean([getattr(s, f) for s in sets]) for f in ("error", "chance_error"))
    assert errors == pytest.approx(chance, rel=0.1)
    assert chance > 0.03


def test_overconfident_predictions_are_told():
    predicted, positive = true_predictions(np.random.default_rng(2), 2000)
    got = calibration(expit(3 * np.log(predicted / (1 - predicted))), positive, resamples=50)
    assert got.error > 3 * got.chance_error


def test_equal_predictions_share_a_bin():
    """Their order is arbitrary, so no number may depend on it."""
    positive = np.arange(7) < 2
    assert expected_calibration_error(np.full(7, 2 / 7), positive) < 1e-12
    assert [b.patients for b in calibration(np.full(7, 0.3), positive).bins] == [7]
    rng = np.random.default_rng(0)
    predicted = np.round(rng.random(60), 1)
    positive = rng.random(60) < predicted
    bins = calibration(predicted, positive).bins
    assert sum(b.patients for b in bins) == 60 and 5 < len(bins) <= 10
    shuffled = rng.permutation(60)
    assert expected_calibration_error(predicted[shuffled], positive[shuffled]) == pytest.approx(
        expected_calibration_error(predicted, positive)
    )


def test_few_patients_have_a_bin_each():
    assert len(calibration(np.linspace(0.1, 0.7, 7), np.arange(7) < 2).bins) == 7


def test_probability_undoes_balanced_training():
    """A logistic regression on balanced classes, used where one in ten is positive."""
    rng = np.random.default_rng(3)
    n = 40_000
    positive = rng.random(n) < 0.1
    x = (positive + rng.normal(size=n))[:, None]
    drawn = np.concatenate([np.flatnonzero(positive), np.flatnonzero(~positive)[: positive.sum()]])
    balanced = LogisticRegression(C=1e6).fit(x[drawn], positive[drawn])
    logit = balanced.decision_function(x)
    raw = expected_calibration_error(expit(logit), positive)
    corrected = probability(logit, trained_share=0.5, true_share=0.1)
    assert raw > 0.15
    assert expected_calibration_error(corrected, positive) < 0.01


def scores(rng: np.random.Generator, n: int, slope: float, intercept: float) -> PatientScores:
    """Patients whose odds follow a logistic curve of their scores."""
    score = rng.normal(1, 3, n)
    return PatientScores(score, rng.random(n) < expit(slope * score + intercept))


def test_platt_agrees_with_scikit_learn():
    """Platt's targets are the outcomes of each patient twice, with weights."""
    patients = scores(np.random.default_rng(3), 80, 0.7, -1)
    above, below = patients.positive.sum(), (~patients.positive).sum()
    target = np.where(patients.positive, (above + 1) / (above + 2), 1 / (below + 2))
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(
        np.tile(patients.score, 2)[:, None],
        np.repeat([1, 0], 80),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    got = Platt.fitted(patients)
    assert got.slope == pytest.approx(reference.coef_[0, 0], rel=1e-3)
    assert got.intercept == pytest.approx(reference.intercept_[0], rel=1e-3)


def test_platt_finds_the_true_curve_and_stays_finite():
    got = Platt.fitted(scores(np.random.default_rng(4), 20_000, 0.5, -1.5))
    assert (got.slope, got.intercept) == pytest.approx((0.5, -1.5), rel=0.08)
    assert got(3.0) == pytest.approx(0.5, abs=0.02)
    separated = PatientScores(np.array([-9.0, -8, 7, 9]), np.array([False, False, True, True]))
    assert 0.5 < Platt.fitted(separated)(9.0) <= 0.8
    reversed_scores = PatientScores(-separated.score, separated.positive)
    assert Platt.fitted(reversed_scores)(3.0) == pytest.approx(0.5, abs=1e-3)


def test_a_left_out_patient_does_not_set_its_own_curve():
    patients = scores(np.random.default_rng(5), 30, 1, 0)
    got = left_out_probabilities(patients)
    others = PatientScores(patients.score[1:], patients.positive[1:])
    assert got[0] == Platt.fitted(others)(patients.score[0])
    assert len(got) == 30
