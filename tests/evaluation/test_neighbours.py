"""Distances and nearest neighbours against brute force in float64."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from femur_jax.errors import UserError
from femur_jax.evaluation.neighbours import euclidean_distances, k_nearest


@pytest.mark.parametrize("k", [1, 3, 40])
def test_neighbours_agree_with_brute_force(k, monkeypatch):
    monkeypatch.setattr("femur_jax.evaluation.neighbours._BLOCK_BYTES", 20_000)  # many blocks
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(70, 20)).astype(np.float32)
    references = rng.normal(size=(150, 20)).astype(np.float32)
    truth = cdist(queries.astype(float), references.astype(float))
    got = k_nearest(queries, references, k)
    np.testing.assert_array_equal(got.index, truth.argsort(axis=1)[:, :k])
    np.testing.assert_allclose(got.distance, np.sort(truth, axis=1)[:, :k], rtol=1e-12)


def test_a_reference_can_be_excluded():
    x = np.random.default_rng(1).normal(size=(40, 5))
    truth = cdist(x, x)
    np.fill_diagonal(truth, np.inf)
    for n in (40, 3, 2):  # also with fewer references than candidates
        got = k_nearest(x[:n], x[:n], 1, exclude=np.arange(n))
        np.testing.assert_array_equal(got.index[:, 0], truth[:n, :n].argmin(axis=1))
        np.testing.assert_allclose(got.distance[:, 0], truth[:n, :n].min(axis=1), rtol=1e-12)


def test_tiny_distances_survive_vectors_with_a_large_common_part():
    rng = np.random.default_rng(2)
    references = 1e5 + rng.normal(size=(200, 64))
    queries = references[:50] + 1e-6 * rng.normal(size=(50, 64))
    got = k_nearest(queries, references, 1)
    np.testing.assert_array_equal(got.index[:, 0], np.arange(50))
    exact = np.linalg.norm(queries - references[:50], axis=1)
    np.testing.assert_allclose(got.distance[:, 0], exact, rtol=1e-12)


def test_too_few_neighbours_are_refused():
    x = np.zeros((3, 2))
    with pytest.raises(UserError, match="3 nearest neighbours among 3"):
        k_nearest(x, x, 3, exclude=np.arange(3))


def test_all_distances_agree_with_brute_force():
    rng = np.random.default_rng(3)
    queries, references = 5 + rng.normal(size=(30, 20)), 5 + rng.normal(size=(40, 20))
    queries[:3] = references[:3]
    got = euclidean_distances(queries, references)
    np.testing.assert_allclose(got, cdist(queries, references), atol=1e-2)
    np.testing.assert_allclose(got[3:], cdist(queries[3:], references), rtol=1e-5)
