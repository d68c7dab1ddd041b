"""Statistics against scikit-learn, hand-counted cases and the coverage that a 95% interval owes."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import (
    Interval,
    PatientScores,
    auc_by_group,
    auc_contrast,
    delong,
    holm,
    patient_scores,
    roc_auc,
    seed_spread,
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
    assert got.value == pytest.approx(roc_auc_score(cases.positive, cases.score))
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


def delong_from_definition(score, positive):
    """Areas and covariance by the double loop of DeLong et al. 1988, equations 2 to 6."""
    x, y = score[:, positive], score[:, ~positive]
    psi = (x[:, :, None] > y[:, None]) + 0.5 * (x[:, :, None] == y[:, None])
    areas, m, n = psi.mean((1, 2)), x.shape[1], y.shape[1]
    covariance = np.zeros((len(score), len(score)))
    for r in range(len(score)):
        for s in range(len(score)):
            s10 = sum(
                (psi[r, i].mean() - areas[r]) * (psi[s, i].mean() - areas[s]) for i in range(m)
            )
            s01 = sum(
                (psi[r, :, j].mean() - areas[r]) * (psi[s, :, j].mean() - areas[s])
                for j in range(n)
            )
            covariance[r, s] = s10 / (m - 1) / m + s01 / (n - 1) / n
    return areas, covariance


def related(rng: np.random.Generator, n_positive: int, n_negative: int, gains: list[float]):
    """Classifiers that see the same signal with noise of their own."""
    positive = np.arange(n_positive + n_negative) < n_positive
    signal = positive + rng.normal(size=positive.size)
    return [
        PatientScores(gain * signal + rng.normal(size=positive.size), positive) for gain in gains
    ]


def test_delong_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    classifiers = related(rng, 14, 31, [2.0, 1.0, 0.2])
    score = np.round(np.stack([c.score for c in classifiers]), 1)  # with ties
    areas, covariance = delong(score, classifiers[0].positive)
    for result, expected in zip(
        (areas, covariance), delong_from_definition(score, classifiers[0].positive), strict=True
    ):
        np.testing.assert_allclose(result, expected, rtol=1e-10)


def test_contrast_of_two_classifiers():
    a, b = related(np.random.default_rng(1), 60, 140, [2.0, 0.7])
    got = auc_contrast([a, b], [1.0, -1.0])
    expected = roc_auc_score(a.positive, a.score) - roc_auc_score(b.positive, b.score)
    assert got.bootstrap.value == pytest.approx(expected)
    assert got.delong.value == pytest.approx(expected)
    # The bootstrap and DeLong's asymptotics estimate the same.
    assert got.bootstrap.low == pytest.approx(got.delong.low, abs=0.015)
    assert got.bootstrap.high == pytest.approx(got.delong.high, abs=0.015)
    # Pairing matters: of unpaired classifiers the variances would add up.
    alone = [auc_contrast([c], [1.0]).delong for c in (a, b)]
    unpaired = np.hypot(*(i.high - i.low for i in alone))
    assert got.delong.high - got.delong.low < 0.9 * unpaired
    same = auc_contrast([a, a], [1.0, -1.0])
    assert same.p_value == 1.0 and same.bootstrap == Interval(0.0, 0.0, 0.0)


def test_equal_classifiers_differ_at_the_nominal_rate():
    rng = np.random.default_rng(2)
    contrasts = [
        auc_contrast(related(rng, 40, 80, [1.0, 1.0]), [1.0, -1.0], seed=n, resamples=200)
        for n in range(400)
    ]
    p = np.array([c.p_value for c in contrasts])
    excluded = [not c.bootstrap.low <= 0 <= c.bootstrap.high for c in contrasts]
    error = np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=3 * error)
    assert np.mean(excluded) == pytest.approx(0.05, abs=3 * error + 0.01)
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.08)


def test_classifiers_tested_on_different_patients_are_refused():
    rng = np.random.default_rng(3)
    with pytest.raises(UserError, match="same patients"):
        auc_contrast([binormal(rng, 5, 5, 1.0), binormal(rng, 6, 4, 1.0)], [1.0, -1.0])


def test_seeds_are_averaged_and_their_spread_is_told():
    seeds = related(np.random.default_rng(4), 30, 50, [1.0, 1.0, 1.0])
    got = seed_spread(seeds)
    areas = [roc_auc_score(s.positive, s.score) for s in seeds]
    assert got.auc == pytest.approx(areas)
    assert got.mean.value == pytest.approx(np.mean(areas))
    assert got.deviation == pytest.approx(np.std(areas, ddof=1))
    assert seed_spread(seeds[:1]).mean == roc_auc(seeds[0])


def test_groups_have_rows_of_their_own():
    rng = np.random.default_rng(5)
    # Twelve patients with two radiographs each, the second of them at a larger size.
    patients = [str(n // 2) for n in range(24)]
    positive = np.arange(24) < 12
    score = positive + rng.normal(size=24)
    sizes = ["large" if n % 2 else "small" for n in range(24)]
    small, large = sorted(
        auc_by_group(score, positive, patients, sizes), key=lambda r: -ord(r.group[0])
    )
    assert (small.group, small.radiographs, small.positive_patients) == ("small", 12, 6)
    assert large.auc is not None
    assert large.auc.value == pytest.approx(roc_auc_score(positive[1::2], score[1::2]))
    hospitals = ["a" if n < 20 else "b" for n in range(24)]
    a, b = auc_by_group(score, positive, patients, hospitals)
    assert (a.negative_patients, b.negative_patients, b.positive_patients) == (4, 2, 0)
    assert a.auc is None and b.auc is None


def test_holm_is_the_closure_of_bonferroni():
    """A hypothesis is rejected if Bonferroni's test rejects every set that contains it."""
    p = [0.01, 0.04, 0.03, 0.005, 0.2]
    sets = [s for n in range(1, 6) for s in itertools.combinations(range(5), n)]
    for n, adjusted in enumerate(holm(p)):
        closed = max(min(1.0, len(s) * min(p[k] for k in s)) for s in sets if n in s)
        assert adjusted == pytest.approx(closed)
    assert holm([]) == []


def test_names_of_patients_change_nothing():
    """Pseudonyms change with their key, and the numbers of a report do not."""
    rng = np.random.default_rng(0)
    number = rng.integers(40, size=90)
    positive, score = number % 3 == 0, rng.normal(size=90)
    hospital = number % 4
    results = []
    for key in (b"a", b"b"):
        names = [hashlib.sha256(key + bytes([n])).hexdigest() for n in number]
        groups = [hashlib.sha256(key + b"h" + bytes([n])).hexdigest() for n in hospital]
        patients = patient_scores(score, positive, names)
        rows = [
            dataclasses.replace(r, group="") for r in auc_by_group(score, positive, names, groups)
        ]
        results.append((roc_auc(patients), sensitivity_at_specificity(patients), rows))
    assert results[0] == results[1]
