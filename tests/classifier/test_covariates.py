"""Covariates in addition to the image, against NumPy and scikit-learn."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from sklearn.linear_model import LogisticRegression

from femur_jax.classifier.covariates import Standardisation
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.models.functional import functional
from femur_jax.models.resnet import ResNet

COLUMNS = ("age", "sex", "exposure")


def known(patient, columns):
    """What a manifest says of a black radiograph."""
    pixels = np.zeros((2, 2), np.uint16)
    radiograph = Radiograph(pixels, "name", "AFF", patient, "hospital", columns=columns)
    return encode(radiograph, 16).entry


def test_standardised_over_patients():
    rng = np.random.default_rng(0)
    values = rng.normal(70, 10, (40, 3))
    values[rng.random((40, 3)) < 0.2] = np.nan
    values[:, 2] = 1.0  # does not vary
    patients = rng.integers(0, 15, 40)
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in values]
    entries = [
        known(str(p), dict(zip(COLUMNS, row, strict=True)))
        for p, row in zip(patients, rows, strict=True)
    ]
    found = Standardisation.over_patients(entries, COLUMNS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of patients of whom nothing is known
        means = np.array([np.nanmean(values[patients == p], axis=0) for p in np.unique(patients)])
    np.testing.assert_allclose(found.mean, np.nanmean(means, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.deviation[:2], np.nanstd(means, axis=0)[:2], rtol=1e-5)
    assert found.deviation[2] == 1.0
    got = np.asarray(found(jnp.asarray(values, jnp.float32)))
    unknown = np.isnan(values)
    np.testing.assert_array_equal(got[:, 3:], unknown)
    expected = np.where(unknown, 0, (values - found.mean) / found.deviation)
    np.testing.assert_allclose(got[:, :3], expected, atol=1e-5)


def test_a_column_that_is_never_known_is_zero():
    entries = [known(str(n), {"age": None}) for n in range(3)]
    found = Standardisation.over_patients(entries, ("age",))
    np.testing.assert_array_equal(found(jnp.full((2, 1), jnp.nan)), [[0, 1], [0, 1]])


def test_without_the_image_it_is_a_logistic_regression():
    """The same solution as scikit-learn's, from the network's own gradients."""
    init, apply = functional(lambda rngs: ResNet((1,), 4, 1, False, columns=3, rngs=rngs))
    params = jax.jit(init)(jax.random.key(0))
    assert not np.any(params["beside"]["kernel"])  # it begins as a classifier of images
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.normal(size=(60, 8, 8, 1)), jnp.float32)
    columns = rng.normal(size=(60, 3))
    labels = rng.random(60) < 1 / (1 + np.exp(-columns @ [1.0, -2.0, 0.5] - 0.3))

    @jax.jit
    @jax.value_and_grad
    def loss(weights):
        head = {"kernel": jnp.zeros_like(params["head"]["kernel"]), "bias": weights[3:]}
        changed = {**params, "head": head, "beside": {"kernel": weights[:3, None]}}
        logits, _ = apply(changed, images, jnp.asarray(columns, jnp.float32))
        return optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).mean()

    def value_and_gradient(weights):
        value, gradient = loss(jnp.asarray(weights, jnp.float32))
        return float(value), np.asarray(gradient, float)

    found = scipy.optimize.minimize(value_and_gradient, np.zeros(4), jac=True, method="BFGS")
    expected = LogisticRegression(C=1e8, tol=1e-8).fit(columns, labels)
    weights = np.append(expected.coef_[0], expected.intercept_)
    assert np.abs(weights).max() > 1
    np.testing.assert_allclose(found.x, weights, atol=5e-3)


@pytest.mark.parametrize("columns", [0, 2])
def test_the_image_counts_as_before(columns):
    init, apply = functional(lambda rngs: ResNet((1,), 4, 1, False, columns=columns, rngs=rngs))
    params = jax.jit(init)(jax.random.key(0))
    beside = jnp.ones((2, columns)) if columns else None
    logit, features = jax.jit(apply)(params, jnp.ones((2, 8, 8, 1)), beside)
    head = params["head"]
    np.testing.assert_allclose(logit, features @ head["kernel"][:, 0] + head["bias"], rtol=1e-5)
