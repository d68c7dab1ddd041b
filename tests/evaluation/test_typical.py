"""Limits around a set, against SciPy and against fresh members."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from femur_jax.evaluation.typical import Typical


def test_distance_is_that_of_mahalanobis():
    rng, scales = np.random.default_rng(0), np.array([1.0, 2.0, 3.0])
    got = Typical.fitted(rng.normal(size=(4000, 3)) * scales + 5, rng.normal(size=(9, 3)) + 5)
    one = np.array([1.0, 2.0, 3.0])
    expected = mahalanobis(one, [5, 5, 5], np.diag(1 / scales**2))
    assert got.distance(one) == pytest.approx(expected, rel=0.05)


def test_one_further_member_in_a_hundred_is_outside():
    rng, outside = np.random.default_rng(1), []
    for _ in range(40):
        typical = Typical.fitted(rng.normal(size=(200, 4)), rng.normal(size=(99, 4)))
        outside += [not typical.includes(one) for one in rng.normal(size=(50, 4))]
    assert 0.003 < np.mean(outside) < 0.02
