"""Comparisons whose outcome is known, and sets that must be refused."""

import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.evaluation.comparison import compare, drawn_alike


def test_every_distance_puts_a_shifted_set_beyond_the_floor():
    rng = np.random.default_rng(0)
    real, floor, shifted = (rng.normal(m, 1, size=(1500, 6)) for m in (0.0, 0.0, 0.7))
    near, far = compare(real, floor), compare(real, shifted)
    for name in ("kid", "mmd"):
        low, high = getattr(near, name), getattr(far, name)
        assert abs(low.value) < 4 * low.standard_error
        assert high.value > 10 * high.standard_error
    assert near.fid < 0.2 * far.fid
    # |mu|^2 of shifted Gaussians with equal covariances
    assert far.fid_infinity == pytest.approx(6 * 0.7**2, abs=4 * 0.125)  # its standard error
    assert far.manifold.coverage < near.manifold.coverage


def test_fewer_samples_than_features_are_told():
    rng = np.random.default_rng(1)
    assert compare(*rng.normal(size=(2, 30, 8))).caveat == ""
    caveat = compare(*rng.normal(size=(2, 30, 40))).caveat
    assert "30 samples with 40 features" in caveat and "KID" in caveat


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="9 real and 30 other"):
        compare(np.zeros((9, 3)), np.zeros((30, 3)))


def test_real_radiographs_are_drawn_with_the_shares_of_another_set(dataset):
    test = dataset.split("test")  # six of each class
    labels = ["NFF"] * 30 + ["AFF"] * 10
    drawn = drawn_alike(dataset, test, labels)
    assert [dataset.entries[n].label for n in drawn].count("NFF") == 6
    assert [dataset.entries[n].label for n in drawn].count("AFF") == 2
    assert len(set(drawn)) == 8 and set(drawn) <= set(test)
    assert len(drawn_alike(dataset, test, labels, most=4)) == 4
    assert {dataset.entries[n].label for n in drawn_alike(dataset, test, ["AFF"])} == {"AFF"}


def test_a_class_without_real_radiographs_is_refused(dataset):
    nff = [n for n in dataset.split("test") if dataset.entries[n].label == "NFF"]
    with pytest.raises(UserError, match="no AFF radiograph"):
        drawn_alike(dataset, nff, ["AFF", "NFF"])
