"""Copies that must be called, honest sets that must not be accused, rates that must hold."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from femur_jax.errors import UserError
from femur_jax.evaluation.copy_audit import (
    Audit,
    Distances,
    audit,
    calibrated_threshold,
    distance_ratio,
)


def compared(
    synthetic: np.ndarray, held_out: np.ndarray, train: np.ndarray, of_each: int = 1
) -> Distances:
    """Distances of samples with several parts, (sample, part, dim), or with one, (sample, dim).

    Consecutive training samples belong to one patient.
    """
    sets = [x if x.ndim == 3 else x[:, None] for x in (synthetic, held_out, train)]
    parts = range(sets[0].shape[1])
    near = [np.stack([cdist(x[:, p], sets[2][:, p]) for p in parts]) for x in sets]
    patients = np.arange(len(train)) // of_each
    near[2][:, patients[:, None] == patients] = np.inf
    return Distances(*near)


def audited(synthetic: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> Audit:
    """The audit of a training set with one sample of each patient."""
    return audit(compared(synthetic, held_out, train))


def test_threshold_is_undercut_by_one_in_a_hundred_fresh_samples():
    rng = np.random.default_rng(3)
    # for uniform distances the threshold itself is the share of fresh samples below it
    for n, share in ((99, 0.01), (500, 0.01), (24, 1 / 25)):
        shares = [calibrated_threshold(rng.uniform(size=n)) for _ in range(2000)]
        tolerance = 4 * np.std(shares) / np.sqrt(len(shares))
        assert np.mean(shares) == pytest.approx(share, abs=tolerance)


def test_planted_copies_are_flagged_and_not_authentic_and_the_rest_is_left_alone():
    rng = np.random.default_rng(4)
    train, held_out, fresh = (rng.normal(size=(n, 12)) for n in (500, 2000, 2000))
    copies = train[::10] + 0.01 * rng.normal(size=(50, 12))
    got = audited(np.concatenate([copies, fresh]), held_out, train)
    np.testing.assert_array_equal(got.index[:50], np.arange(0, 500, 10))
    assert got.flagged[:50].all() and got.copies[:50].all()
    assert not got.authentic[:50].any() and not got.copies[50:].any()
    # 1% expected; 4 standard errors of 2500 real and 2000 fresh samples
    assert got.flagged[50:].mean() == pytest.approx(0.01, abs=4 * np.sqrt(2 * 0.01 / 2000))
    assert got.flagged_share.low < got.flagged.mean() < got.flagged_share.high
    assert got.calibrated_on == 2500
    again = compared(copies, held_out, train).synthetic
    np.testing.assert_array_equal(got.finds(again), got.copies[:50])


def test_a_copied_part_among_new_ones_is_found():
    """One part in three is copied; whole samples are not near to anything."""
    rng = np.random.default_rng(10)
    train, held_out, synthetic = (rng.normal(size=(n, 3, 12)) for n in (300, 200, 220))
    synthetic[:20, 1] = train[50:70, 1] + 0.01 * rng.normal(size=(20, 12))
    got = audited(synthetic, held_out, train)
    np.testing.assert_array_equal(got.index[:20], np.arange(50, 70))
    assert (got.part[:20] == 1).all() and set(got.part[20:]) == {0, 1, 2}
    assert got.copies[:20].all() and not got.copies[20:].any()
    assert not got.authentic[:20].any() and got.authentic[20:].mean() > 0.2
    assert got.flagged[20:].mean() < 0.05  # 1% expected
    whole = audited(*(x.reshape(len(x), -1) for x in (synthetic, held_out, train)))
    assert not whole.copies.any()


@pytest.mark.parametrize(("parts", "held_out", "sets"), [(1, 20, 150), (3, 20, 60)])
def test_honest_sets_are_accused_at_the_stated_rates(parts, held_out, sets):
    """The training set calibrates, too, so 20 held-out samples are enough."""
    rng = np.random.default_rng(7)
    results = [
        audited(*(rng.normal(size=(n, parts, 6)) for n in (64, held_out, 200))) for _ in range(sets)
    ]
    p = np.array([result.p_value for result in results])
    for level in (0.05, 0.2):  # discrete and conservative: at most, with 3 standard errors
        assert np.mean(p <= level) <= level + 3 * np.sqrt(level * (1 - level) / sets)
    assert np.mean(p <= 0.5) > 0.1
    accused = [result.p_value <= 0.01 or result.copies.any() for result in results]
    assert np.mean(accused) <= 0.02 + 3 * np.sqrt(0.02 * 0.98 / sets)


def test_radiographs_of_the_same_patient_do_not_calibrate():
    """Each patient has two radiographs that are nearly equal, and copies are as near."""
    rng = np.random.default_rng(12)
    patients = rng.normal(size=(100, 12))
    train = np.repeat(patients, 2, axis=0) + 0.02 * rng.normal(size=(200, 12))
    copies = patients[:20] + 0.02 * rng.normal(size=(20, 12))
    held_out = rng.normal(size=(50, 12))
    assert audit(compared(copies, held_out, train, of_each=2)).copies.all()
    assert not audit(compared(copies, held_out, train)).copies.all()


def test_distance_ratio_is_carlinis():
    distances = np.array([[[3.0, 1.0, 9.0, 2.0], [0.0, 0.0, 0.0, 0.0]]])
    np.testing.assert_allclose(distance_ratio(distances, 3), [[1.0 / (0.5 * 2.0), 0.0]])


def test_authenticity_follows_its_definition():
    rng = np.random.default_rng(5)
    train, synthetic = rng.normal(size=(60, 3)), rng.normal(size=(300, 3))
    expected = []
    for y in synthetic:
        to_train = [np.linalg.norm(y - x) for x in train]
        star = int(np.argmin(to_train))
        others = [np.linalg.norm(train[star] - x) for i, x in enumerate(train) if i != star]
        expected.append(to_train[star] > min(others))
    assert 0.2 < np.mean(expected) < 0.8  # both outcomes occur
    np.testing.assert_array_equal(audited(synthetic, synthetic, train).authentic, expected)


def test_a_copy_of_a_duplicated_training_sample_is_not_authentic():
    train = np.array([[0.0], [0.0], [5.0]])
    assert not audited(train[:1], train[:1], train).authentic.any()


def test_a_training_set_of_one_patient_is_refused():
    x = np.zeros((3, 2))
    with pytest.raises(UserError, match="two patients"):
        audit(compared(x, x, x, of_each=3))
