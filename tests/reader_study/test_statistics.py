import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from femur_jax.reader_study.design import Design
from femur_jax.reader_study.statistics import (
    area_against_guessing,
    area_equivalence_power,
    detectable_accuracy,
    equivalence_power,
    fewest_for_equivalence,
    kappa,
    paired_difference,
    proportion,
    roc_area,
    share_against_guessing,
    weighted_kappa,
)


def test_exact_interval_by_its_definition():
    """At each limit, the observed count or a more extreme one has a probability of 2.5%."""
    interval = proportion(17, 40)
    mass = lambda p, ks: sum(math.comb(40, k) * p**k * (1 - p) ** (40 - k) for k in ks)  # noqa: E731
    assert interval.value == 17 / 40
    assert mass(interval.low, range(17, 41)) == pytest.approx(0.025, rel=1e-6)
    assert mass(interval.high, range(18)) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize("n", [50, 200])
def test_equivalence_is_the_90_percent_interval_within_the_margin(n):
    for k in range(n + 1):
        inside = proportion(k, n, 0.9).low > 0.4 and proportion(k, n, 0.9).high < 0.6
        test = share_against_guessing(k, n, 0.1)
        assert (test.p_equivalence < 0.05) == inside
        assert (test.p < 0.05) == (scipy.stats.binomtest(k, n).pvalue < 0.05)


def test_the_planned_sizes():
    # 200 readings detect an accuracy of about 0.605 with 80% power; guessing spans 0.43 to 0.57.
    assert detectable_accuracy(200) == pytest.approx(0.6025, abs=0.004)
    half = proportion(100, 200)
    assert (half.low, half.high) == (pytest.approx(0.43, abs=0.003), pytest.approx(0.57, abs=0.003))
    assert math.isnan(detectable_accuracy(4))
    rng = np.random.default_rng(0)
    right = rng.binomial(100, detectable_accuracy(100), 40000)
    p = np.array([scipy.stats.binomtest(k, 100).pvalue for k in range(101)])
    power = np.mean((p < 0.05)[right] & (right > 50))
    assert power == pytest.approx(0.8, abs=0.01)
    tests = [share_against_guessing(k, 100, 0.15) for k in range(101)]
    shown = np.array([test.p_equivalence < 0.05 for test in tests])
    assert equivalence_power(100, 0.15) == pytest.approx(
        shown[rng.binomial(100, 0.5, 40000)].mean(), abs=0.01
    )


def test_kappa_of_a_known_table():
    # By Cohen's formula: the agreement is 0.7, and 0.5 by chance, so kappa is 0.2 / 0.5.
    first, second = (
        np.repeat([1, 1, 0, 0], [20, 5, 10, 15]),
        np.repeat([1, 0, 1, 0], [20, 5, 10, 15]),
    )
    assert kappa(first, second) == pytest.approx(0.4)
    # With linear weights, kappa is 1 - observed / expected mean distance; unused steps count too.
    a, b = np.array([1, 2, 3, 6]), np.array([1, 3, 3, 4])
    expected = np.abs(a[:, None] - b[None]).mean()
    assert weighted_kappa(a, b, 6) == pytest.approx(1 - np.abs(a - b).mean() / expected)
    assert math.isnan(kappa(np.ones(5, int), np.ones(5, int)))


def test_the_signed_rank_test_against_all_permutations_of_signs():
    rng = np.random.default_rng(0)
    first, second = rng.integers(1, 6, (2, 14))
    mean, p = paired_difference(first + (np.arange(14) % 2), second)
    difference = first + (np.arange(14) % 2) - second
    ranks = scipy.stats.rankdata(np.abs(difference))  # Pratt: zeros are ranked and then removed
    ranks, signs = ranks[difference != 0], np.sign(difference[difference != 0])
    flips = np.array(list(itertools.product((-1, 1), repeat=len(ranks))))
    exact = np.mean(np.abs(flips @ ranks) >= abs(signs @ ranks) - 1e-9)
    assert mean == pytest.approx(difference.mean())
    assert p == pytest.approx(exact, abs=0.03)
    assert paired_difference(first, first) == (0.0, 1.0)


def test_an_area_of_one_keeps_an_interval():
    positive = np.arange(12) < 5
    area = roc_area(positive + 0.0, positive)
    assert (area.value, area.high) == (1, 1) and 0.5 < area.low < 0.8


def ratings_of(rng: np.random.Generator, readers: int, cases: int, area: float, caution: float):
    """Six steps of confidence with a given area, cut from normal scores.

    With caution few cases are called synthetic, and equal steps leave less of the scores' area.
    """
    cuts = caution + np.array([-1.2, -0.6, 0.0, 0.6, 1.2])

    def area_of_steps(distance: float) -> float:
        edges = np.r_[-np.inf, cuts, np.inf]
        real, synthetic = (np.diff(scipy.stats.norm.cdf(edges - d)) for d in (0.0, distance))
        below = np.cumsum(real) - real
        return float(np.sum(synthetic * (below + real / 2)))

    distance = scipy.optimize.brentq(lambda d: area_of_steps(d) - area, 0, 4)
    positive = np.arange(cases) < cases // 2
    scores = distance * positive + rng.normal(size=(readers, cases))
    return 1 + np.digitize(scores, cuts), positive


def test_caution_does_not_pass_as_guessing():
    """A reader with an AUC of 0.69 who rarely says synthetic has about half of the cases right."""
    rng = np.random.default_rng(0)
    steps, positive = ratings_of(rng, 200, 200, 0.69, caution=3.0)
    right = ((steps > 3) == positive).sum(axis=1)
    by_accuracy = [share_against_guessing(int(k), 200, 0.1).p_equivalence < 0.05 for k in right]
    by_area = [
        area_against_guessing(roc_area(s.astype(float), positive).value, positive, 0.1)
        for s in steps
    ]
    assert np.mean(by_accuracy) > 0.4
    assert np.mean([test.p_equivalence < 0.05 for test in by_area]) < 0.01


@pytest.mark.parametrize("caution", [0.3, 1.5])
def test_areas_are_called_at_the_stated_rates(caution: float):
    rng = np.random.default_rng(1)
    tests = {}
    for area in (0.5, 0.6):
        steps, positive = ratings_of(rng, 250, 200, area, caution)
        tests[area] = [
            area_against_guessing(roc_area(s.astype(float), positive).value, positive, 0.1)
            for s in steps
        ]
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 250)
    assert np.mean([test.p < 0.05 for test in tests[0.5]]) < bound
    assert np.mean([test.p_equivalence < 0.05 for test in tests[0.6]]) < bound
    # Equal steps leave the test a little careful.
    shown = np.mean([test.p_equivalence < 0.05 for test in tests[0.5]])
    assert shown == pytest.approx(area_equivalence_power(200, 0.1), abs=0.13)


def test_the_default_study_can_show_equivalence():
    assert fewest_for_equivalence(0.1) == 76
    assert equivalence_power(50, 0.1) == 0 < equivalence_power(76, 0.1)
    assert Design().pairs >= 76
