"""Attacks on who was in the training set, at the stated rates."""

import numpy as np
import pytest
from scipy.stats import binom

from femur_jax.evaluation.membership import membership_inference


def attacked(train: np.ndarray, held_out: np.ndarray):
    """The attack with one radiograph of each patient."""
    return membership_inference(
        train,
        held_out,
        [f"train {n}" for n in range(len(train))],
        [f"other {n}" for n in range(len(held_out))],
    )


def test_a_coin_is_accused_at_the_stated_rate():
    rng = np.random.default_rng(0)
    p = [attacked(rng.uniform(size=90), rng.uniform(size=40)).p_value for _ in range(150)]
    for level in (0.05, 0.2):
        assert np.mean(np.array(p) <= level) == pytest.approx(
            level, abs=3 * np.sqrt(level * (1 - level) / 150)
        )


def test_members_that_lie_nearer_are_found():
    rng = np.random.default_rng(1)
    got = attacked(rng.normal(-1.8, 1, size=100), rng.normal(size=120))
    assert got.auc.low < 0.9 < got.auc.high and got.p_value < 1e-10


def test_the_rate_at_one_percent_has_exact_limits():
    """One of 150 held-out patients may be accused: those beyond the second nearest are found."""
    held_out = np.arange(150.0)
    got = attacked(np.concatenate([np.full(12, 0.5), np.full(48, 1.5)]), held_out).tpr_at_1_fpr
    assert got is not None and got.value == 0.2
    assert binom.sf(11, 60, got.low) == pytest.approx(0.025)
    assert binom.cdf(12, 60, got.high) == pytest.approx(0.025)


def test_few_held_out_patients_show_no_rate_of_one_percent():
    assert attacked(np.zeros(200), np.arange(99.0)).tpr_at_1_fpr is None
    assert attacked(np.zeros(200), np.arange(100.0)).tpr_at_1_fpr is not None


def test_radiographs_of_a_patient_count_once():
    got = membership_inference(
        np.array([0.0, 0.2, 5.0]), np.array([0.5, 1.0, 3.0]), ["a", "a", "b"], ["c", "d", "d"]
    )
    assert got.auc.value == pytest.approx(0.5)  # 0.1 and 5 against 0.5 and 2
