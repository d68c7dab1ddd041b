"""Attacks on who was in the training set, at the stated rates."""

import numpy as np
import pytest
from scipy.stats import binom

from femur_jax.evaluation.membership import density_inference, membership_inference, strongest


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


def by_density(rng: np.random.Generator, leak: bool, others: int = 110):
    """The density attack on a set of new samples, or of the training patients with noise.

    Each patient has two radiographs. All differ in ten directions more than in the other thirty.
    """
    spread = np.r_[np.linspace(2, 0.5, 10), np.full(30, 0.2)]
    people = spread * rng.normal(size=(100 + others, 1, 40))
    seen = (people + 0.3 * spread * rng.normal(size=(100 + others, 2, 40))).reshape(-1, 40)
    patients = np.repeat(np.arange(100 + others), 2).astype(str).tolist()
    train, held_out = seen[:200], seen[200:]
    new = spread * rng.normal(size=(150, 40))
    if leak:
        new = train[rng.integers(200, size=150)] + 0.5 * spread * rng.normal(size=(150, 40))
    return density_inference(new, train, held_out, patients[:200], patients[200:])


def test_densities_of_honest_sets_are_accused_at_the_stated_rate():
    rng = np.random.default_rng(2)
    attacks = [by_density(rng, leak=False) for _ in range(150)]
    p = np.array([attack.p_value for attack in attacks if attack])
    assert len(p) == 150
    for level in (0.05, 0.2):
        assert np.mean(p <= level) == pytest.approx(
            level, abs=3 * np.sqrt(level * (1 - level) / 150)
        )


def test_densities_reveal_members_around_whom_samples_are_too_frequent():
    rng = np.random.default_rng(3)
    attacks = [by_density(rng, leak=True) for _ in range(20)]
    found = [attack for attack in attacks if attack]
    assert sum(attack.p_value < 0.005 for attack in found) >= 17  # 0.99 on average
    assert np.mean([attack.auc.value for attack in found]) > 0.6


def test_a_set_of_one_sample_has_a_density():
    rng = np.random.default_rng(6)
    features, patients = rng.normal(size=(160, 40)), [str(n) for n in range(160)]
    train, held_out = features[:60], features[60:]
    copies = np.repeat(train[:1], 50, axis=0)
    got = density_inference(copies, train, held_out, patients[:60], patients[60:])
    assert got and 0 < got.p_value < 1


def test_half_of_the_held_out_patients_are_the_reference_and_few_show_nothing():
    rng = np.random.default_rng(4)
    assert by_density(rng, leak=False, others=99) is None
    few, many = (by_density(rng, leak=False, others=others) for others in (110, 200))
    assert few and few.tpr_at_1_fpr is None
    assert many and many.tpr_at_1_fpr is not None


def test_the_better_of_two_attacks_accuses_at_the_stated_rate():
    rng = np.random.default_rng(5)
    p = []
    for _ in range(300):
        attacks = [attacked(rng.uniform(size=60), rng.uniform(size=40)) for _ in range(2)]
        p.append(strongest(*attacks).p_value)
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.19, abs=3 * np.sqrt(0.19 * 0.81 / 300))
    alone = attacked(rng.uniform(size=60), rng.uniform(size=40))
    assert strongest(alone, None) == alone
