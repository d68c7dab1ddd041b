"""Statistics against scikit-learn, hand-counted cases and the coverage that a 95% interval owes."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks import rates
from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import (
    PatientScores,
    area_interval,
    area_variance,
    auc_by_group,
    auc_over_hospitals,
    delong,
    holm,
    patient_scores,
    roc_auc,
    seed_spread,
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


def test_interval_is_newcombes_fifth_method():
    """The equation of the paper, with the root found on a grid; areas of 1 keep an interval."""
    m, n, z = 12, 30, 1.959964
    positive = np.arange(m + n) < m
    a = np.linspace(0, 1, 400_001)
    half = (m + n) / 2 - 1
    variance = a * (1 - a) * (1 + half * (1 - a) / (2 - a) + half * a / (1 + a)) / (m * n)
    for value in (0.0, 0.31, 0.5, 0.93, 1.0):
        inside = a[abs(a - value) <= z * np.sqrt(variance)]
        got = area_interval([value], positive)
        assert (got.low, got.high) == pytest.approx((inside[0], inside[-1]), abs=1e-5)
    assert area_interval([1.0], positive).high == 1 and area_interval([1.0], positive).low < 0.95


@pytest.mark.parametrize(
    ("positives", "negatives", "true_area"),
    [(28, 42, 0.99), (28, 42, 0.7), (5, 12, 0.95), (40, 160, 0.9)],
)
def test_auc_interval_covers_the_true_area_as_often_as_it_says(positives, negatives, true_area):
    rate = rates.coverage(4000, positives, negatives, true_area)
    assert rate.value >= 0.93


def test_repeated_trainings_widen_the_interval_by_their_spread():
    positive = np.arange(900) < 300
    equal, spread = (area_interval(areas, positive) for areas in ([0.8] * 3, [0.7, 0.8, 0.9]))
    assert equal.low == pytest.approx(area_interval([0.8], positive).low)
    # The spread of the trainings dominates, so the interval is nearly that of their mean by t.
    half = stats.t.isf(0.025, 2) * np.std([0.7, 0.8, 0.9], ddof=1) / np.sqrt(3)
    assert (spread.high - spread.low) / 2 > equal.high - equal.low
    assert 0.8 - spread.low == pytest.approx(half, rel=0.15)
    assert spread.high == 1.0


def test_whole_hospitals_are_resampled():
    """The ratio of Obuchowski's variance to that of patients alone, by loops."""
    rng = np.random.default_rng(0)
    positive = np.arange(60) < 25
    score = positive + rng.normal(size=60) + 1.5 * rng.normal(size=7)[np.arange(60) // 9]
    names, home = [str(n) for n in range(60)], [str(n // 9) for n in range(60)]
    got = auc_over_hospitals(score, positive, names, home)
    assert got is not None
    psi = (score[positive][:, None] > score[~positive]).astype(float)
    theta = psi.mean()
    influence = [
        *((psi[i].mean() - theta) / 25 for i in range(25)),
        *((psi[:, j].mean() - theta) / 35 for j in range(35)),
    ]
    clusters = [sum(v for n, v in enumerate(influence) if n // 9 == h) for h in range(7)]
    ratio = 7 / 6 * sum(c**2 for c in clusters) / sum(v**2 for v in influence)
    assert ratio > 1.3
    for end in (got.low, got.high):
        variance = ratio * area_variance(end, 25, 35)
        assert abs(end - theta) == pytest.approx(stats.t.isf(0.025, 6) * np.sqrt(variance))
    assert auc_over_hospitals(score, positive, names, [str(n % 3) for n in range(60)]) is None
    perfect = auc_over_hospitals(positive + 0.0, positive, names, home)
    assert perfect is not None and perfect.high == 1 and perfect.low < 0.95


def test_patients_of_one_hospital_are_no_independent_patients():
    over_hospitals, over_patients = (
        rates.hospital_coverage(300, 8, by_hospital=by_hospital) for by_hospital in (True, False)
    )
    assert over_hospitals.value > 0.91
    assert over_patients.value < over_hospitals.value


def test_scores_without_information():
    cases = PatientScores(np.full(10, 0.3), np.arange(10) < 4)
    auc = roc_auc(cases)
    assert auc.value == 0.5 and auc.low < 0.25 and auc.high > 0.75


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


def test_a_single_patient_of_a_class_has_no_variance():
    cases = PatientScores(np.array([0.9, 0.1, 0.2]), np.array([True, False, False]))
    with pytest.raises(UserError, match=r"1 patients with and 2 without .* needs two of each"):
        delong(cases.score[None], cases.positive)
    assert roc_auc(cases).value == 1.0


def test_classifiers_tested_on_different_patients_are_refused():
    rng = np.random.default_rng(3)
    with pytest.raises(UserError, match="same patients"):
        seed_spread([[binormal(rng, 5, 5, 1.0), binormal(rng, 6, 4, 1.0)]])


def test_seeds_are_averaged_and_their_spread_is_reported():
    seeds = related(np.random.default_rng(4), 30, 50, [1.0, 1.0, 1.0, 1.0])
    areas = [roc_auc_score(s.positive, s.score) for s in seeds]
    one_set = seed_spread([seeds])
    assert one_set.auc == pytest.approx(areas)
    assert one_set.mean.value == pytest.approx(np.mean(areas))
    assert one_set.of_classifiers == pytest.approx(np.std(areas, ddof=1))
    assert one_set.of_generators == 0
    two_sets = seed_spread([seeds[:2], seeds[2:]])
    means = np.mean(areas[:2]), np.mean(areas[2:])
    variances = [np.var(own, ddof=1) for own in (areas[:2], areas[2:])]
    assert two_sets.of_classifiers == pytest.approx(np.sqrt(np.mean(variances)))
    assert two_sets.of_generators == pytest.approx(np.std(means, ddof=1))
    for spread, independent in ((one_set, areas), (two_sets, means)):
        expected = area_interval(independent, seeds[0].positive)
        assert dataclasses.astuple(spread.mean) == pytest.approx(dataclasses.astuple(expected))
    assert seed_spread([seeds[:1]]).mean == roc_auc(seeds[0])


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
        results.append((roc_auc(patients), rows))
    assert results[0] == results[1]
