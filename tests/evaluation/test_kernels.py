"""Kernel distances against double loops and analytic values, and the rates of their test."""

import itertools

import numpy as np
import pytest

from benchmarks import rates
from femur_jax.errors import UserError
from femur_jax.evaluation import kernels
from femur_jax.evaluation.kernels import gaussian_kernel, kernel_distance, median_distance


def mmd2_from_definition(x, y, of_x=None, of_y=None):
    """Means over pairs, those of one patient left out."""
    dim = x.shape[1]
    of_x, of_y = (range(len(x)) if of_x is None else of_x, range(len(y)) if of_y is None else of_y)

    def k(a, b):
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / dim + 1) ** 3

    def within(z, of):
        pairs = itertools.product(range(len(z)), repeat=2)
        return np.mean([k(z[i], z[j]) for i, j in pairs if of[i] != of[j]])

    return within(x, of_x) + within(y, of_y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_kid_is_the_double_loop_over_the_whole_sets():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(14, 5)).astype(np.float32), rng.normal(0.5, 1, size=(9, 5))
    assert kernel_distance(x, y).value == pytest.approx(mmd2_from_definition(x, y), rel=1e-10)


def test_radiographs_of_one_patient_are_no_pair():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(14, 3)), rng.normal(size=(9, 3))
    of_x, of_y = [n // 3 for n in range(14)], [n % 5 for n in range(9)]
    names = [f"x{n}" for n in of_x], [f"y{n}" for n in of_y]
    got = kernel_distance(x, y, patients=names)
    assert got.value == pytest.approx(mmd2_from_definition(x, y, of_x, of_y), rel=1e-10)
    x_of, y_of = np.array(of_x), np.array(of_y)
    without_x = [mmd2_from_definition(x[x_of != n], y, x_of[x_of != n], y_of) for n in range(5)]
    without_y = [mmd2_from_definition(x, y[y_of != n], x_of, y_of[y_of != n]) for n in range(5)]
    variance = sum(4 * np.var(part) for part in (without_x, without_y))
    assert got.standard_error == pytest.approx(np.sqrt(variance), rel=1e-8)


def test_large_sets_are_cut_into_parts_of_whole_patients(monkeypatch):
    monkeypatch.setattr(kernels, "LARGEST", 30)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 4)), rng.normal(1.0, 1, size=(30, 4))
    patients = [str(n // 2) for n in range(60)], [str(n) for n in range(30)]
    got = kernel_distance(x, y, patients=patients)
    monkeypatch.undo()
    whole = kernel_distance(x, y, patients=patients)
    assert got.value == pytest.approx(whole.value, abs=2 * whole.standard_error)
    assert got.value != whole.value and got.p_value == whole.p_value == 1 / 1001


def test_kid_of_gaussians_matches_the_analytic_value_and_is_unbiased():
    # For x, x' ~ N(mu, s^2 I) in one dimension: E (x x' + 1)^3 = 1 + 3 m1^2 + 3 m2^2 + m3^2 with
    # the raw moments m1 = mu, m2 = mu^2 + s^2, m3 = mu^3 + 3 mu s^2; mixed moments multiply.
    def moments(mu, s):
        return np.array([1.0, mu, mu**2 + s**2, mu**3 + 3 * mu * s**2])

    difference = moments(0.0, 1.0) - moments(0.5, 0.8)
    expected = np.sum(np.array([1, 3, 3, 1]) * difference**2)
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(
            rng.normal(size=(40, 1)), rng.normal(0.5, 0.8, size=(30, 1)), permutations=0
        ).value
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
            rng.normal(size=(40, dim)),
            rng.normal(mu, s, size=(30, dim)),
            gaussian_kernel(b),
            permutations=0,
        ).value
        for _ in range(300)
    ]
    tolerance = 4 * np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(expected, abs=tolerance)
    assert tolerance < 0.2 * expected


def test_the_gaussian_kernel_keeps_its_digits_far_from_zero():
    x = np.random.default_rng(3).normal(size=(6, 4))
    near, far = (gaussian_kernel(1.5)(x + shift, x[::-1] + shift) for shift in (0.0, 1e6))
    np.testing.assert_allclose(far, near, rtol=1e-8)
    expected = [[np.exp(-np.sum((a - b) ** 2) / 4.5) for b in x[::-1]] for a in x]
    np.testing.assert_allclose(near, expected, rtol=1e-12)


def test_median_distance_of_gaussians():
    x = np.random.default_rng(6).normal(size=(3000, 200)).astype(np.float32)
    assert median_distance(x) == pytest.approx(np.sqrt(2 * 200), rel=0.01)


def test_kid_standard_error_is_the_spread_of_repeated_estimates():
    rng = np.random.default_rng(1)
    estimates = [
        kernel_distance(
            rng.normal(size=(100, 4)), rng.normal(0.4, 1, size=(100, 4)), permutations=0
        )
        for _ in range(300)
    ]
    spread = np.std([e.value for e in estimates])
    stated = np.sqrt(np.mean([e.standard_error**2 for e in estimates]))
    assert stated == pytest.approx(spread, rel=0.15)


def test_the_p_value_is_that_of_all_permutations():
    """Five and four patients allow 126 choices, and the p value is a share of them."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(5, 2)), rng.normal(0.7, 1, size=(4, 2))
    both = np.concatenate([x, y])
    values = []
    for chosen in itertools.combinations(range(9), 5):
        others = [n for n in range(9) if n not in chosen]
        values.append(mmd2_from_definition(both[list(chosen)], both[others]))
    exact = np.mean(np.array(values) >= values[0] - 1e-12)
    got = kernel_distance(x, y, permutations=4000)
    assert got.p_value == pytest.approx(exact, abs=3 * np.sqrt(exact * (1 - exact) / 4000))


def test_classes_keep_their_shares_when_patients_are_permuted():
    """Sets that differ only in the class of their patients have nothing left to permute."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 3)), rng.normal(3.0, 1, size=(20, 3))
    assert kernel_distance(x, y, labels=(["NFF"] * 20, ["AFF"] * 20)).p_value == 1
    assert kernel_distance(x, y, labels=(["NFF"] * 20, ["NFF"] * 20)).p_value < 0.01


def test_sets_of_one_kind_are_called_different_in_one_comparison_of_twenty():
    def drawn(rng: np.random.Generator):
        return rng.normal(size=(20, 8))

    rate = rates.kid_rate(300, drawn, drawn)
    assert abs(rate.value - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 300)
    assert rates.kid_detection_rate(60).value > 0.85
    # Radiographs of one patient that are alike make the test more careful, not less.
    assert rates.perfect_generator_rate(200).value < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_names_of_patients_and_seeds_change_what_they_should():
    x, y = np.random.default_rng(5).normal(size=(2, 40, 3))
    one, other = (([f"{key}{n}" for n in range(40)], [*"abcdefgh"] * 5) for key in "ab")
    first = kernel_distance(x, y, patients=one)
    assert kernel_distance(x, y, patients=other) == first
    assert kernel_distance(x, y, patients=one, seed=1).value == first.value


def test_too_few_samples_or_patients_are_refused():
    with pytest.raises(UserError, match="real set has 3 samples"):
        kernel_distance(np.zeros((3, 3)), np.zeros((5, 3)))
    names = ["a", "b", "c", "a", "b"], list("abcde")
    with pytest.raises(UserError, match="real set has radiographs of 3 patients"):
        kernel_distance(np.zeros((5, 3)), np.zeros((5, 3)), patients=names)
