"""Nearest neighbours against brute force in float64, and correlations against numpy's."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from femur_jax.errors import UserError
from femur_jax.evaluation import neighbours
from femur_jax.evaluation.neighbours import k_nearest, most_correlated


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


def test_correlation_agrees_with_its_definition(pictures):
    """numpy's own correlation of banded ranks at each shift, for some pairs."""
    train, queries = pictures["train"][:12].astype(float), pictures["test"][:4].astype(float)
    got = most_correlated(queries, train, 12, shift=1)
    banded = neighbours._banded(np.concatenate([train, queries])).astype(float)
    for q in range(4):
        c = [
            max(
                np.corrcoef(view[y : y + 46, x : x + 46].ravel(), banded[r][1:-1, 1:-1].ravel())[
                    0, 1
                ]
                for view in (banded[12 + q], banded[12 + q][:, ::-1])
                for y in range(3)
                for x in range(3)
            )
            for r in range(12)
        ]
        np.testing.assert_array_equal(got.index[q], np.argsort(c)[::-1])
        np.testing.assert_allclose(got.distance[q], np.sqrt(2 * (1 - np.sort(c)[::-1])), atol=1e-4)
