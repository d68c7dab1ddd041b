"""Distances against analytic Gaussians, scipy's matrix square root and brute-force double loops."""

from itertools import combinations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from femur_jax.errors import UserError
from femur_jax.evaluation.distances import (
    frechet_distance,
    frechet_distance_infinity,
    gaussian_kernel,
    kernel_distance,
    median_distance,
)


def whitened(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """A sample whose mean is exactly zero and whose unbiased covariance is exactly I."""
    x = rng.normal(size=(n, dim))
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(scipy.linalg.cholesky(np.cov(x.T)))


def covariance_root(rng: np.random.Generator, dim: int) -> np.ndarray:
    return rng.normal(size=(dim, dim)) / np.sqrt(dim)


def fid_from_definition(x: np.ndarray, y: np.ndarray) -> float:
    c_x, c_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(c_x @ c_y).real
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c_x + c_y - 2 * root)


def test_fid_of_gaussians_with_diagonal_covariances():
    rng = np.random.default_rng(0)
    s_x, s_y, mu = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5]), np.array([1.0, -2.0, 0.5])
    x, y = whitened(rng, 50, 3) * s_x, whitened(rng, 80, 3) * s_y + mu
    # where covariances commute, d^2 = |mu|^2 + sum (s_x - s_y)^2
    expected = np.sum(mu**2) + np.sum((s_x - s_y) ** 2)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_fid_agrees_with_scipys_matrix_square_root():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 8)) @ covariance_root(rng, 8) + 0.3
    y = rng.normal(size=(90, 8)) @ covariance_root(rng, 8)
    assert frechet_distance(x, y) == pytest.approx(fid_from_definition(x, y), rel=1e-8)


def test_fid_where_samples_are_fewer_than_dimensions():
    rng = np.random.default_rng(2)
    dim = 40
    x, y = np.zeros((12, dim)), np.zeros((9, dim))
    x[:, :2], y[:, 1:3] = whitened(rng, 12, 2), whitened(rng, 9, 2)
    # traces 2 and 2; the covariances share one direction of unit variance
    assert frechet_distance(x, y) == pytest.approx(2 + 2 - 2 * 1, rel=1e-10)
    basis = scipy.stats.ortho_group.rvs(dim, random_state=3)
    assert frechet_distance(x @ basis, y @ basis) == pytest.approx(2.0, rel=1e-10)


def test_fid_of_equal_sets_is_zero_also_with_a_deficient_covariance_and_a_large_mean():
    x = np.random.default_rng(3).normal(size=(20, 64)).astype(np.float32) + 100
    assert frechet_distance(x, x) < 1e-10
    assert frechet_distance(x, x[::-1].copy()) < 1e-10


def test_fid_is_biased_upwards_in_small_samples():
    rng = np.random.default_rng(4)
    small, large = (frechet_distance(*rng.normal(size=(2, n, 16))) for n in (30, 3000))
    assert small > 10 * large


def mmd2_from_definition(x: np.ndarray, y: np.ndarray) -> float:
    dim = x.shape[1]

    def k(a, b):
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / dim + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_kid_is_the_mean_over_disjoint_subsets_of_the_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 5)).astype(np.float32), rng.normal(0.5, 1, size=(5, 5))
    got = kernel_distance(x, y, subsets=10, seed=7)  # two samples a subset at least: two subsets
    # all ways to halve the two sets: the seed must have drawn one of them
    possible = []
    for a in combinations(range(4), 2):
        for b in combinations(range(5), 3):
            parts = (
                mmd2_from_definition(x[list(a)], y[list(b)]),
                mmd2_from_definition(np.delete(x, a, 0), np.delete(y, b, 0)),
            )
            possible.append((np.mean(parts), abs(parts[0] - parts[1]) / 2))
    error = np.abs(np.array(possible) - (got.value, got.standard_error)).max(axis=1)
    assert error.min() < 1e-10


def test_kid_of_gaussians_matches_the_analytic_value_and_is_unbiased():
    # For x, x' ~ N(mu, s^2 I) in one dimension: E (x x' + 1)^3 = 1 + 3 m1^2 + 3 m2^2 + m3^2 with
    # the raw moments m1 = mu, m2 = mu^2 + s^2, m3 = mu^3 + 3 mu s^2; mixed moments multiply.
    def moments(mu, s):
        return np.array([1.0, mu, mu**2 + s**2, mu**3 + 3 * mu * s**2])

    difference = moments(0.0, 1.0) - moments(0.5, 0.8)
    expected = np.sum(np.array([1, 3, 3, 1]) * difference**2)
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(rng.normal(size=(40, 1)), rng.normal(0.5, 0.8, size=(30, 1))).value
        for _ in range(400)
    ]
    tolerance = 4 * np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(expected, abs=tolerance)


def test_gaussian_mmd_of_gaussians_matches_the_analytic_value():
    # E k for x - y ~ N(mu, s^2 I): (b^2 / (b^2 + s^2))^(d / 2) exp(-|mu|^2 / 2 / (b^2 + s^2))
    dim, b, mu, s = 3, 2.0, 0.5, 0.7

    def expectation(shift, variance):
        return (b**2 / (b**2 + variance)) ** (dim / 2) * np.exp(
            -dim * shift**2 / 2 / (b**2 + variance)
        )

    expected = expectation(0, 2) + expectation(0, 2 * s**2) - 2 * expectation(mu, 1 + s**2)
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(
            rng.normal(size=(40, dim)), rng.normal(mu, s, size=(30, dim)), gaussian_kernel(b)
        ).value
        for _ in range(300)
    ]
    tolerance = 4 * np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(expected, abs=tolerance)
    assert tolerance < 0.2 * expected


def test_median_distance_of_gaussians():
    x = np.random.default_rng(6).normal(size=(3000, 200)).astype(np.float32)
    assert median_distance(x) == pytest.approx(np.sqrt(2 * 200), rel=0.01)


def test_fid_infinity_has_less_bias():
    rng = np.random.default_rng(7)
    fid, infinity = [], []
    for _ in range(10):
        x, y = rng.normal(size=(400, 10)), rng.normal(0.2, 1, size=(250, 10))
        fid.append(frechet_distance(x, y))
        infinity.append(frechet_distance_infinity(x, y))
    truth = 10 * 0.2**2
    assert np.mean(fid) > truth + 0.05
    assert np.mean(infinity) == pytest.approx(truth, abs=0.04)


def test_kid_standard_error_is_the_spread_of_repeated_estimates():
    rng = np.random.default_rng(1)
    estimates = [
        kernel_distance(rng.normal(size=(100, 4)), rng.normal(0.4, 1, size=(100, 4)))
        for _ in range(300)
    ]
    spread = np.std([e.value for e in estimates])
    stated = np.sqrt(np.mean([e.standard_error**2 for e in estimates]))
    assert stated == pytest.approx(spread, rel=0.15)


def test_kid_is_seeded():
    x, y = np.random.default_rng(5).normal(size=(2, 40, 3))
    assert kernel_distance(x, y, seed=1) == kernel_distance(x, y, seed=1)
    assert kernel_distance(x, y, seed=1) != kernel_distance(x, y, seed=2)


def test_too_few_samples_and_broken_features_are_refused():
    x = np.zeros((1, 3))
    with pytest.raises(UserError, match="synthetic set has 1 samples"):
        frechet_distance(np.zeros((5, 3)), x)
    with pytest.raises(UserError, match="real set has 3 samples"):
        kernel_distance(np.zeros((3, 3)), np.zeros((5, 3)))
    with pytest.raises(UserError, match="synthetic set are not finite"):
        frechet_distance(np.zeros((5, 3)), np.full((5, 3), np.nan))
