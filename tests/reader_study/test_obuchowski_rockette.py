import numpy as np
import pytest

from femur_jax.reader_study.obuchowski_rockette import compare, mean_area, reader_areas

# Van Dyke et al. 1993 compared cine and spin-echo MRI for aortic dissection: 5 readers, 45 cases
# with a dissection and 69 without. The numbers count the pairs in which the positive case has the
# higher rating, with ties counted half. Areas and covariances are those of the tables for empirical
# areas in Smith and Hillis 2020 (MRMCaov, SPIE 11316).
VAN_DYKE = np.array(
    [[2855.5, 2666.5, 2806.5, 3021.5, 2576.5], [2943.0, 2811.0, 2862.0, 3103.0, 2887.5]]
) / (45 * 69)


def covariances(error, cov1, cov2, cov3):
    """Covariances of 2 tests and 5 readers in the model of Obuchowski and Rockette."""
    test, reader = np.eye(2)[:, None, :, None], np.eye(5)[None, :, None, :]
    return (
        error * test * reader
        + cov1 * (1 - test) * reader
        + cov2 * test * (1 - reader)
        + cov3 * (1 - test) * (1 - reader)
    )


def test_published_comparison_with_the_same_cases_for_both_tests():
    result = compare(VAN_DYKE, covariances(0.0007921325, 0.0003420090, 0.0003395265, 0.0002358497))
    assert (result.f, result.df1) == (pytest.approx(4.484854, abs=5e-6), 1)
    assert result.df2 == pytest.approx(15.06611, abs=2e-5)
    assert result.p == pytest.approx(0.05123303, abs=1e-7)
    interval = result.difference.value, result.difference.low, result.difference.high
    assert interval == pytest.approx((-0.04380032, -0.0878671960, 0.0002665519), abs=2e-8)


def test_published_comparison_with_different_cases_for_each_test():
    result = compare(VAN_DYKE, covariances(0.0008058382, 0, 0.0003455973, 0))
    assert (result.f, result.df2) == pytest.approx((2.104491, 68.42325), rel=1e-6)
    assert result.p == pytest.approx(0.1514363, abs=1e-7)
    interval = result.difference.low, result.difference.high
    assert interval == pytest.approx((-0.10404242, 0.01644178), abs=2e-8)


@pytest.mark.parametrize(
    "test, cov2, mean, low, high",
    [
        (0, 0.0004775239, 0.8970370, 0.8253461, 0.9687280),
        (1, 0.0002015292, 0.9408374, 0.8942155, 0.9874592),
    ],
)
def test_published_intervals_of_one_test(test, cov2, mean, low, high):
    covariance = np.where(np.eye(5, dtype=bool), np.nan, cov2)  # the variances are not used
    mean_interval = mean_area(VAN_DYKE[test], covariance).interval
    assert (mean_interval.value, mean_interval.low, mean_interval.high) == pytest.approx(
        (mean, low, high), abs=1e-7
    )


def test_delong_by_the_definition():
    """Sums over cases in plain Python, as DeLong et al. write them."""
    rng = np.random.default_rng(0)
    positive = np.arange(20) < 8
    ratings = rng.integers(1, 6, (3, 20)) + positive
    areas, covariance = reader_areas(ratings.astype(float), positive)

    def psi(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    x, y = ratings[:, positive], ratings[:, ~positive]
    v10 = [[sum(psi(a, b) for b in y[k]) / 12 for a in x[k]] for k in range(3)]
    v01 = [[sum(psi(a, b) for a in x[k]) / 8 for b in y[k]] for k in range(3)]
    theta = [sum(v) / 8 for v in v10]
    for r in range(3):
        for s in range(3):
            s10 = sum((v10[r][i] - theta[r]) * (v10[s][i] - theta[s]) for i in range(8)) / 7
            s01 = sum((v01[r][j] - theta[r]) * (v01[s][j] - theta[s]) for j in range(12)) / 11
            assert covariance[r, s] == pytest.approx(s10 / 8 + s01 / 12, rel=1e-12)
    assert areas == pytest.approx(theta)


def test_intervals_contain_the_truth_at_their_nominal_rate():
    """Readers and cases come from a binormal model; 95% of 400 is 380 +- 4.4."""
    rng = np.random.default_rng(1)
    positive = np.arange(80) < 40
    truth, held, rejected = [], 0, 0
    for _ in range(400):
        case = rng.normal(size=(2, 80)) * 0.8  # each test has different cases
        skill = 1.2 + 0.3 * rng.normal(size=(1, 4, 1)) * np.ones((2, 1, 1))
        ratings = case[:, None] + skill * positive + 0.6 * rng.normal(size=(2, 4, 80))
        estimates = [reader_areas(test, positive) for test in ratings]
        covariance = np.zeros((2, 4, 2, 4))
        covariance[0, :, 0], covariance[1, :, 1] = estimates[0][1], estimates[1][1]
        rejected += compare(np.stack([areas for areas, _ in estimates]), covariance).p < 0.05
        interval = mean_area(*estimates[0]).interval
        truth.append(interval.value)
        held += interval.low < 0.7985 < interval.high
    assert np.mean(truth) == pytest.approx(0.7985, abs=0.01)
    assert held >= 366 and rejected <= 34


def test_the_comparison_of_perfect_readers_is_undefined():
    areas, none = np.ones((2, 3)), np.zeros((2, 3, 2, 3))
    assert np.isnan(compare(areas, none).p)
    assert mean_area(areas[0], none[0, :, 0]).interval.low == 1
