import itertools
import math

import numpy as np
import pytest
import scipy.stats

from femur_jax.reader_study.statistics import (
    detectable_accuracy,
    equivalence_p,
    equivalence_power,
    kappa,
    paired_difference,
    proportion,
    roc_area,
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
        assert (equivalence_p(k, n, 0.1) < 0.05) == inside


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
    shown = np.array([equivalence_p(k, 100, 0.15) < 0.05 for k in range(101)])
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


def test_the_interval_of_the_roc_area_is_clipped_at_one():
    positive = np.arange(12) < 5
    area = roc_area(positive + 0.0, positive)
    assert (area.value, area.low, area.high) == (1, 1, 1)
    ratings = np.where(positive, 3.0, 2.0)
    ratings[0] = 1
    area = roc_area(ratings, positive)
    assert area.value == pytest.approx(0.8) and area.high == 1 and 0.3 < area.low < 0.6
