"""Statistics against scikit-learn, hand-counted cases and the coverage that a 95% interval owes."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import (
    Interval,
    PatientScores,
    patient_scores,
    roc_auc,
    sensitivity_at_specificity,
)


def binormal(rng: np.random.Generator, n_positive: int, n_negative: int, d: float) -> PatientScores:
    """Unit-variance normal scores, d apart: the area under the curve is Phi(d / sqrt 2)."""
    score = np.concatenate([rng.normal(d, 1, n_positive), rng.normal(0, 1, n_negative)])
    return PatientScores(score, np.arange(score.size) < n_positive)


def test_patient_score_is_the_mean_over_the_patients_radiographs():
    score = np.array([1.0, 0.0, 3.0, 5.0, 7.0, 0.5])
    positive = np.array([True, False, True, False, False, True])
    patients = ["b", "a", "b", "c", "c", "a"]  # patient a has a fracture of each class
    cases = patient_scores(score, positive, patients)
    assert sorted(zip(cases.score, cases.positive, strict=True)) == [
        (0.0, False),
        (0.5, True),
        (2.0, True),
        (6.0, False),
    ]


def test_a_class_without_patients_is_the_users_mistake():
    with pytest.raises(UserError, match="0 patients with and 2 without"):
        patient_scores(np.array([0.1, 0.2]), np.array([False, False]), ["a", "b"])
    with pytest.raises(UserError, match="1 patients with and 0 without"):
        patient_scores(np.array([0.1, 0.2]), np.array([True, True]), ["a", "a"])


def test_scores_of_a_diverged_classifier_are_refused():
    with pytest.raises(UserError, match="1 of 2 classifier scores"):
        patient_scores(np.array([np.nan, 0.2]), np.array([True, False]), ["a", "b"])


def test_auc_counts_pairs_with_ties_as_half():
    cases = PatientScores(np.array([2.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False]))
    assert roc_auc(cases).value == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_auc_bootstrap_agrees_with_resampling_one_patient_at_a_time():
    rng = np.random.default_rng(0)
    cases = binormal(rng, 12, 30, d=1.0)
    cases = PatientScores(np.round(cases.score, 1), cases.positive)  # with ties
    groups = np.flatnonzero(cases.positive), np.flatnonzero(~cases.positive)
    areas = []
    for _ in range(1500):
        drawn = np.concatenate([rng.choice(group, group.size) for group in groups])
        areas.append(roc_auc_score(cases.positive[drawn], cases.score[drawn]))
    got = roc_auc(cases, seed=1)
    assert got.value == roc_auc_score(cases.positive, cases.score)
    np.testing.assert_allclose([got.low, got.high], np.quantile(areas, [0.025, 0.975]), atol=0.02)


def test_auc_interval_covers_the_true_area_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true_area = 0.8413  # Phi(1), scores sqrt(2) apart
    covered = 0
    for seed in range(200):
        got = roc_auc(binormal(rng, 40, 80, d=np.sqrt(2)), seed=seed, resamples=400)
        covered += got.low <= true_area <= got.high
    assert 0.88 < covered / 200 < 0.99  # 3 standard errors about 0.935


def test_intervals_are_seeded():
    cases = binormal(np.random.default_rng(3), 20, 40, d=1.0)
    assert roc_auc(cases, seed=5) == roc_auc(cases, seed=5)
    assert roc_auc(cases, seed=5) != roc_auc(cases, seed=6)
    assert sensitivity_at_specificity(cases, seed=5) == sensitivity_at_specificity(cases, seed=5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("specificity", [0.9, 0.95])
def test_sensitivity_agrees_with_scikit_learns_roc_curve(seed: int, specificity: float):
    cases = binormal(np.random.default_rng(seed), 30, 60, d=1.5)
    cases = PatientScores(np.round(cases.score, 1), cases.positive)
    fpr, tpr, _ = roc_curve(cases.positive, cases.score, drop_intermediate=False)
    got = sensitivity_at_specificity(cases, specificity)
    false_positives = round(60 * (1 - specificity))  # allowed: 6 or 3 of 60
    assert got.value == pytest.approx(tpr[np.round(60 * fpr) <= false_positives].max())
    assert got.low <= got.value <= got.high


def test_sensitivity_bootstrap_agrees_with_resampling_one_patient_at_a_time():
    rng = np.random.default_rng(0)
    cases = binormal(rng, 25, 50, d=1.5)
    groups = np.flatnonzero(cases.positive), np.flatnonzero(~cases.positive)
    values = []
    for _ in range(800):
        drawn = np.concatenate([rng.choice(group, group.size) for group in groups])
        fpr, tpr, _ = roc_curve(cases.positive[drawn], cases.score[drawn], drop_intermediate=False)
        values.append(tpr[fpr <= 0.05 + 1e-9].max())
    got = sensitivity_at_specificity(cases, 0.95)
    np.testing.assert_allclose([got.low, got.high], np.quantile(values, [0.025, 0.975]), atol=0.05)


def test_scores_without_information():
    cases = PatientScores(np.full(10, 0.3), np.arange(10) < 4)
    assert roc_auc(cases) == Interval(0.5, 0.5, 0.5)
    assert sensitivity_at_specificity(cases) == Interval(0.0, 0.0, 0.0)


def test_2000_resamples_of_300_patients_take_well_under_a_second():
    cases = binormal(np.random.default_rng(0), 60, 240, d=1.0)
    start = time.process_time()
    roc_auc(cases)
    assert time.process_time() - start < 1.0
