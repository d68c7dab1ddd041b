"""Neighbours, precision, recall, density and coverage against brute force in float64."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from femur_jax.errors import UserError
from femur_jax.evaluation.manifold import manifold
from femur_jax.evaluation.neighbours import k_nearest


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


def manifold_from_definition(real, synthetic, k):
    """The four, with loops over samples and all distances at once."""
    r_real, r_synthetic = (np.sort(cdist(x, x), axis=1)[:, k] for x in (real, synthetic))
    d = cdist(real, synthetic)
    precision = np.mean([any(d[:, j] <= r_real) for j in range(len(synthetic))])
    recall = np.mean([any(d[i] <= r_synthetic) for i in range(len(real))])
    density = sum(d[i, j] <= r_real[i] for i in range(len(real)) for j in range(len(synthetic)))
    coverage = np.mean([min(d[i]) <= r_real[i] for i in range(len(real))])
    return precision, recall, density / k / len(synthetic), coverage


@pytest.mark.parametrize(("n", "m", "dim", "shift"), [(60, 80, 3, 0.5), (90, 50, 64, 0.1)])
def test_manifold_agrees_with_its_definition(n, m, dim, shift):
    rng = np.random.default_rng(3)
    real, synthetic = rng.normal(size=(n, dim)), rng.normal(shift, 0.8, size=(m, dim))
    got = manifold(real, synthetic, k=4)
    expected = manifold_from_definition(real, synthetic, 4)
    assert (got.precision, got.recall, got.density, got.coverage) == pytest.approx(expected)
    assert 0 < got.recall < 1


def test_samples_on_a_ball_are_decided_in_float64():
    """Each synthetic sample lies on the radius of a real one, one unit in the last place aside."""
    real = np.concatenate([np.arange(6.0) * 1000, np.arange(6.0) * 1000 + 1.0])[:, None]
    for step, precision in ((-1e-9, 1.0), (1e-9, 0.0)):
        synthetic = np.arange(6.0)[:, None] * 1000 + 2.0 + step  # radius 1 about 1000 n + 1
        assert manifold(real, synthetic, k=1).precision == precision


def test_what_the_four_are_for():
    rng = np.random.default_rng(4)
    two = np.array([[-4.0] + [0.0] * 7, [4.0] + [0.0] * 7])
    real, same = (two[rng.integers(2, size=400)] + rng.normal(size=(400, 8)) for _ in range(2))
    floor = manifold(real, same)
    dropped = manifold(real, two[0] + rng.normal(size=(400, 8)))
    blurred = manifold(real, two[rng.integers(2, size=400)] * 3 + 2 * rng.normal(size=(400, 8)))
    assert floor.coverage == pytest.approx(1 - 2**-5, abs=0.03)
    assert floor.density == pytest.approx(1, abs=0.1)
    assert dropped.recall < 0.6 * floor.recall and dropped.coverage < 0.6 * floor.coverage
    assert dropped.precision > 0.9 * floor.precision
    assert blurred.precision < 0.6 * floor.precision and blurred.density < 0.6 * floor.density
