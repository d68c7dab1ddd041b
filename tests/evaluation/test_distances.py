"""Distances against analytic Gaussians, scipy's matrix square root and brute-force loops."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from scipy.spatial.distance import cdist

from femur_jax.errors import UserError
from femur_jax.evaluation.distances import (
    compare,
    frechet_distance,
    frechet_distance_infinity,
    manifold,
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


def test_too_few_samples_and_broken_features_are_refused():
    x = np.zeros((1, 3))
    with pytest.raises(UserError, match="synthetic set has 1 samples"):
        frechet_distance(np.zeros((5, 3)), x)
    with pytest.raises(UserError, match="synthetic set are not finite"):
        frechet_distance(np.zeros((5, 3)), np.full((5, 3), np.nan))


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


def test_every_distance_puts_a_shifted_set_beyond_the_floor():
    rng = np.random.default_rng(0)
    real, floor, shifted = (rng.normal(m, 1, size=(1500, 6)) for m in (0.0, 0.0, 0.7))
    near, far = compare(real, floor), compare(real, shifted)
    for name in ("kid", "mmd"):
        assert abs(getattr(near, name)) < 4 * getattr(near, f"{name}_error")
        assert getattr(far, name) > 10 * getattr(far, f"{name}_error")
    assert near.kid_p > 0.05 and far.kid_p < 0.002
    assert near.fid < 0.2 * far.fid
    # |mu|^2 of shifted Gaussians with equal covariances
    assert far.fid_infinity == pytest.approx(6 * 0.7**2, abs=4 * 0.125)  # its standard error
    assert far.manifold.coverage < near.manifold.coverage


def test_fewer_samples_than_features_have_a_caveat():
    rng = np.random.default_rng(1)
    assert compare(*rng.normal(size=(2, 30, 8))).caveat == ""
    caveat = compare(*rng.normal(size=(2, 30, 40))).caveat
    assert "30 samples with 40 features" in caveat and "KID" in caveat


def test_fid_is_extrapolated_where_its_bias_falls_as_one_over_n():
    """The smallest subset, a fifth, needs more samples than there are features."""
    rng = np.random.default_rng(2)
    assert compare(*rng.normal(size=(2, 45, 8))).fid_infinity is not None
    assert compare(*rng.normal(size=(2, 44, 8))).fid_infinity is None


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="9 real and 30 other"):
        compare(np.zeros((9, 3)), np.zeros((30, 3)))
