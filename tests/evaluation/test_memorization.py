"""Neighbour search against brute force; copies that must be caught; rates that must hold."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from femur_jax.errors import UserError
from femur_jax.evaluation.memorization import audit, calibrated_threshold, is_authentic, nearest


def test_nearest_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(70, 20)).astype(np.float32)
    references = rng.normal(size=(150, 20)).astype(np.float32)
    truth = cdist(queries.astype(float), references.astype(float))
    got = nearest(queries, references, block=32)  # the last block is not full
    np.testing.assert_array_equal(got.index, truth.argmin(axis=1))
    np.testing.assert_allclose(got.distance, truth.min(axis=1), rtol=1e-12)


def test_a_reference_can_be_excluded():
    x = np.random.default_rng(1).normal(size=(40, 5))
    truth = cdist(x, x)
    np.fill_diagonal(truth, np.inf)
    for n in (40, 3, 2):  # also with fewer references than candidates
        got = nearest(x[:n], x[:n], exclude=np.arange(n), block=16)
        np.testing.assert_array_equal(got.index, truth[:n, :n].argmin(axis=1))
        np.testing.assert_allclose(got.distance, truth[:n, :n].min(axis=1), rtol=1e-12)


def test_tiny_distances_survive_vectors_with_a_large_common_part():
    rng = np.random.default_rng(2)
    references = 1e5 + rng.normal(size=(200, 64))
    queries = references[:50] + 1e-6 * rng.normal(size=(50, 64))
    got = nearest(queries, references)
    np.testing.assert_array_equal(got.index, np.arange(50))
    np.testing.assert_allclose(
        got.distance, np.linalg.norm(queries - references[:50], axis=1), rtol=1e-12
    )


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
    np.testing.assert_array_equal(got.nearest.index[:50], np.arange(0, 500, 10))
    assert got.flagged[:50].all()
    assert not got.authentic[:50].any()
    # 1% expected; 4 standard errors of 2000 held-out and 2000 fresh samples
    assert got.flagged[50:].mean() == pytest.approx(0.01, abs=4 * np.sqrt(2 * 0.01 / 2000))


def test_copies_are_flagged_even_where_held_out_samples_leaked_into_the_training_set():
    train = np.random.default_rng(6).normal(size=(30, 4))
    got = audit(train[:5], train, held_out=train)
    assert got.threshold == 0.0
    assert got.chance_share == pytest.approx(1 / 31)
    assert got.flagged.all()


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
    np.testing.assert_array_equal(is_authentic(nearest(synthetic, train), train), expected)


def test_a_copy_of_a_duplicated_training_sample_is_not_authentic():
    train = np.array([[0.0], [0.0], [5.0]])
    assert not is_authentic(nearest(train[:1], train), train).any()


def test_empty_sets_are_refused():
    x = np.zeros((3, 2))
    with pytest.raises(UserError, match="0 training samples"):
        audit(x, x[:0], x)
    with pytest.raises(UserError, match="1 training samples"):
        audit(x, x[:1], x)
    with pytest.raises(UserError, match="held-out"):
        audit(x, x, x[:0])
