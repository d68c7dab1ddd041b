"""Copies that must be caught, honest sets that must not be accused, rates that must hold."""

import numpy as np
import pytest
from conftest import drawn_radiographs
from scipy.ndimage import shift as moved

from femur_jax.errors import UserError
from femur_jax.evaluation.memorization import (
    Point,
    audit,
    audit_crops,
    before_onset,
    calibrated_threshold,
    conclude,
    distance_ratio,
    is_authentic,
    membership_inference,
    onset_table,
)
from femur_jax.evaluation.neighbours import Neighbours, k_nearest, most_correlated


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
    got = audit(np.concatenate([copies, fresh]), train, held_out)
    np.testing.assert_array_equal(got.index[:50], np.arange(0, 500, 10))
    assert got.flagged[:50].all() and got.copies[:50].all()
    assert not got.authentic[:50].any() and not got.copies[50:].any()
    # 1% expected; 4 standard errors of 2000 held-out and 2000 fresh samples
    assert got.flagged[50:].mean() == pytest.approx(0.01, abs=4 * np.sqrt(2 * 0.01 / 2000))
    assert got.flagged_share.low < got.flagged.mean() < got.flagged_share.high


def test_copies_are_flagged_even_where_held_out_samples_leaked_into_the_training_set():
    train = np.random.default_rng(6).normal(size=(30, 4))
    got = audit(train[:5], train, held_out=train)
    assert got.threshold == 0.0
    assert got.chance_share == pytest.approx(1 / 31)
    assert got.flagged.all()


def test_honest_sets_are_flagged_and_accused_at_the_stated_rates():
    rng = np.random.default_rng(7)
    train = rng.normal(size=(60, 6))
    p_values, copies = [], 0
    for _ in range(300):
        got = audit(rng.normal(size=(100, 6)), train, rng.normal(size=(150, 6)))
        p_values.append(got.p_value)
        copies += int(got.copies.sum())
    p = np.array(p_values)
    for level in (0.01, 0.05, 0.2):  # discrete and conservative: at most, with 3 standard errors
        assert np.mean(p <= level) <= level + 3 * np.sqrt(level * (1 - level) / 300)
    assert np.mean(p <= 0.5) > 0.1
    assert copies <= 300 * 0.01 + 3 * np.sqrt(300 * 0.01)


def test_a_copied_crop_among_new_ones_is_found():
    """One crop in three is copied; whole samples are not near to anything."""
    rng = np.random.default_rng(10)
    train, held_out, synthetic = (rng.normal(size=(n, 3, 12)) for n in (300, 200, 220))
    synthetic[:20, 1] = train[50:70, 1] + 0.01 * rng.normal(size=(20, 12))
    got = audit_crops(synthetic, train, held_out)
    np.testing.assert_array_equal(got.index[:20], np.arange(50, 70))
    assert (got.crop[:20] == 1).all() and set(got.crop[20:]) == {0, 1, 2}
    assert got.copies[:20].all() and not got.copies[20:].any()
    assert not got.authentic[:20].any() and got.authentic[20:].mean() > 0.2
    assert got.flagged[20:].mean() < 0.05  # 1% expected
    whole = audit(*(x.reshape(len(x), -1) for x in (synthetic, train, held_out)))
    assert not whole.copies.any()


def test_honest_crops_are_not_accused_more_often_than_stated():
    rng = np.random.default_rng(11)
    train = rng.normal(size=(60, 3, 6))
    result = [
        audit_crops(rng.normal(size=(100, 3, 6)), train, rng.normal(size=(150, 3, 6)))
        for _ in range(100)
    ]
    assert np.mean([f.p_value <= 0.05 for f in result]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)
    assert sum(f.copies.sum() for f in result) <= 100 * 0.01 + 3


def test_distance_ratio_is_carlinis():
    distance = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    ratio = distance_ratio(Neighbours(np.zeros((2, 3), int), distance))
    np.testing.assert_allclose(ratio, [1.0 / (0.5 * 2.0), 0.0])


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
    result = k_nearest(synthetic, train, 1)
    got = is_authentic(result.index[:, 0], result.distance[:, 0], train)
    np.testing.assert_array_equal(got, expected)


def test_a_copy_of_a_duplicated_training_sample_is_not_authentic():
    train = np.array([[0.0], [0.0], [5.0]])
    assert not is_authentic(np.array([0]), np.array([0.0]), train).any()


LEAKS = {
    "as it is": lambda x, rng: x,
    "shifted": lambda x, rng: moved(x, (2, -3), mode="nearest"),
    "flipped": lambda x, rng: x[:, ::-1],
    "noised": lambda x, rng: x + 0.015 * 65535 * rng.normal(size=x.shape),
    "re-windowed": lambda x, rng: np.clip(1.5 * x - 5000, 0, 65535) ** 1.4,
}


def test_a_leak_of_one_in_a_hundred_is_found_however_it_is_disguised(pictures):
    """Two copies of each kind among 200 samples; each kind alone is enough to accuse."""
    rng = np.random.default_rng(8)
    train, held_out = (pictures[split].astype(float) for split in ("train", "validation"))
    origin = np.array([17, 140])
    leaked = np.stack([change(train[n], rng) for change in LEAKS.values() for n in origin])
    synthetic = np.concatenate([leaked, pictures["test"][: 200 - len(leaked)]])
    result = audit(synthetic, train, held_out, most_correlated)
    np.testing.assert_array_equal(result.index[: len(leaked)], np.tile(origin, len(LEAKS)))
    assert not result.copies[len(leaked) :].any()
    for kind, copies in zip(LEAKS, result.copies[: len(leaked)].reshape(-1, 2), strict=True):
        assert copies.any(), kind
    assert conclude({"correlation": result}).found_copies


def test_an_honest_set_is_not_accused(pictures):
    train, held_out, honest = (
        pictures[split].astype(float) for split in ("train", "validation", "test")
    )
    audits = {
        "correlation": audit(honest, train, held_out, most_correlated),
        "pixels": audit(*(x.reshape(len(x), -1) for x in (honest, train, held_out))),
    }
    got = conclude(audits)
    assert not got.found_copies
    for result in audits.values():
        assert f"{result.copy_ratio:.2f}" in got.sentence
        assert f"{result.threshold:.2f}" in got.sentence


def test_membership_is_inferred_of_an_overfit_generator_alone(pictures):
    """A generator that copies half of its training set, and one that makes new radiographs."""
    rng = np.random.default_rng(9)
    train, held_out = (pictures[split].astype(float)[:100] for split in ("train", "validation"))
    overfit = train[:50] + 1000 * rng.normal(size=train[:50].shape)
    honest = drawn_radiographs(rng, 50).astype(float)
    patients = [f"train {n // 2}" for n in range(100)], [f"other {n // 2}" for n in range(100)]
    results = [
        membership_inference(
            *(x.reshape(len(x), -1) for x in (synthetic, train, held_out)), *patients
        )
        for synthetic in (overfit, honest)
    ]
    assert results[0].auc.low > 0.6 and results[0].tpr_at_1_fpr.value > 0.4
    assert results[1].auc.low < 0.5 < results[1].auc.high
    assert results[1].tpr_at_1_fpr.value < 0.1


def test_empty_sets_are_refused():
    x = np.zeros((3, 2))
    with pytest.raises(UserError, match="among 0 samples"):
        audit(x, x[:0], x)
    with pytest.raises(UserError, match="among 1 samples"):
        audit(x, x[:1], x)
    with pytest.raises(UserError, match="held-out"):
        audit(x, x, x[:0])
    with pytest.raises(UserError, match="needs synthetic"):
        audit(x[:0], x, x)


def points(found_copies):
    return [
        Point(100 * n, int(copied), 0.1, 0.01, 0.9, 0.5, copied)
        for n, copied in enumerate(found_copies, start=1)
    ]


@pytest.mark.parametrize(
    ("found_copies", "step", "words"),
    [
        ([False, False, True, True], 200, "--config.sample.snapshot=200"),
        ([False, True, False, True], 100, "--config.sample.snapshot=100"),
        ([False, False, False], 300, "No copies up to step 300"),
        ([True, True], None, "snapshot_every"),
    ],
)
def test_the_step_before_the_first_copies_is_named(found_copies, step, words):
    snapshots = points(found_copies)
    assert before_onset(snapshots[::-1]) == step
    assert words in onset_table(snapshots)
