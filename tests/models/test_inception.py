"""Tests of Inception-v3 against NumPy in float64, layer by layer as FID's authors list it."""

import jax
import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.models.functional import functional
from femur_jax.models.inception import LAYERS, Inception, inception_params


@pytest.fixture(scope="session")
def weights():
    """Random weights under the published names, with batch normalisation."""
    rng = np.random.default_rng(0)
    result = {}
    for name, (inputs, outputs, kernel, _) in LAYERS.items():
        spread = np.sqrt(2 / (inputs * kernel[0] * kernel[1]))
        result[f"{name}.conv.weight"] = spread * rng.normal(size=(outputs, inputs, *kernel))
        result[f"{name}.bn.weight"] = rng.uniform(0.5, 1.5, outputs)
        result[f"{name}.bn.bias"] = 0.2 * rng.normal(size=outputs)
        result[f"{name}.bn.running_mean"] = 0.2 * rng.normal(size=outputs)
        result[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, outputs)
    return {name: value.astype(np.float32) for name, value in result.items()}


class Reference:
    """The network with channels first, separate normalisations and explicit padding."""

    def __init__(self, weights):
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def conv(self, x, name, stride=1, padding=(0, 0)):
        w = self.weights[f"{name}.conv.weight"]
        x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
        views = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
        y = np.tensordot(views[:, :, ::stride, ::stride], w, ((1, 4, 5), (1, 2, 3)))
        gamma, beta, mean, var = (
            self.weights[f"{name}.bn.{suffix}"]
            for suffix in ("weight", "bias", "running_mean", "running_var")
        )
        return np.moveaxis(np.maximum((y - mean) / np.sqrt(var + 1e-3) * gamma + beta, 0), 3, 1)

    def pool(self, x, reduce, stride, padding):
        x = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), constant_values=np.nan)
        views = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        return reduce(views[:, :, ::stride, ::stride], axis=(4, 5))

    def a(self, x, m):
        return np.concatenate(
            [
                self.conv(x, f"{m}.branch1x1"),
                self.conv(self.conv(x, f"{m}.branch5x5_1"), f"{m}.branch5x5_2", padding=(2, 2)),
                self.conv(
                    self.conv(
                        self.conv(x, f"{m}.branch3x3dbl_1"), f"{m}.branch3x3dbl_2", padding=(1, 1)
                    ),
                    f"{m}.branch3x3dbl_3",
                    padding=(1, 1),
                ),
                self.conv(self.pool(x, np.nanmean, 1, 1), f"{m}.branch_pool"),
            ],
            axis=1,
        )

    def b(self, x, m):
        double = self.conv(x, f"{m}.branch3x3dbl_1")
        double = self.conv(double, f"{m}.branch3x3dbl_2", padding=(1, 1))
        return np.concatenate(
            [
                self.conv(x, f"{m}.branch3x3", stride=2),
                self.conv(double, f"{m}.branch3x3dbl_3", stride=2),
                self.pool(x, np.nanmax, 2, 0),
            ],
            axis=1,
        )

    def c(self, x, m):
        seven = self.conv(x, f"{m}.branch7x7_1")
        seven = self.conv(seven, f"{m}.branch7x7_2", padding=(0, 3))
        seven = self.conv(seven, f"{m}.branch7x7_3", padding=(3, 0))
        double = self.conv(x, f"{m}.branch7x7dbl_1")
        for n, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            double = self.conv(double, f"{m}.branch7x7dbl_{n}", padding=padding)
        pooled = self.conv(self.pool(x, np.nanmean, 1, 1), f"{m}.branch_pool")
        return np.concatenate([self.conv(x, f"{m}.branch1x1"), seven, double, pooled], axis=1)

    def d(self, x, m):
        three = self.conv(self.conv(x, f"{m}.branch3x3_1"), f"{m}.branch3x3_2", stride=2)
        seven = self.conv(x, f"{m}.branch7x7x3_1")
        seven = self.conv(seven, f"{m}.branch7x7x3_2", padding=(0, 3))
        seven = self.conv(seven, f"{m}.branch7x7x3_3", padding=(3, 0))
        seven = self.conv(seven, f"{m}.branch7x7x3_4", stride=2)
        return np.concatenate([three, seven, self.pool(x, np.nanmax, 2, 0)], axis=1)

    def e(self, x, m, reduce):
        three = self.conv(x, f"{m}.branch3x3_1")
        double = self.conv(x, f"{m}.branch3x3dbl_1")
        double = self.conv(double, f"{m}.branch3x3dbl_2", padding=(1, 1))
        return np.concatenate(
            [
                self.conv(x, f"{m}.branch1x1"),
                self.conv(three, f"{m}.branch3x3_2a", padding=(0, 1)),
                self.conv(three, f"{m}.branch3x3_2b", padding=(1, 0)),
                self.conv(double, f"{m}.branch3x3dbl_3a", padding=(0, 1)),
                self.conv(double, f"{m}.branch3x3dbl_3b", padding=(1, 0)),
                self.conv(self.pool(x, reduce, 1, 1), f"{m}.branch_pool"),
            ],
            axis=1,
        )

    def __call__(self, x):
        x = self.conv(np.moveaxis(x, 3, 1), "Conv2d_1a_3x3", stride=2)
        x = self.conv(x, "Conv2d_2a_3x3")
        x = self.conv(x, "Conv2d_2b_3x3", padding=(1, 1))
        x = self.conv(self.pool(x, np.nanmax, 2, 0), "Conv2d_3b_1x1")
        x = self.pool(self.conv(x, "Conv2d_4a_3x3"), np.nanmax, 2, 0)
        for m in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.a(x, m)
        x = self.b(x, "Mixed_6a")
        for m in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.c(x, m)
        x = self.e(self.d(x, "Mixed_7a"), "Mixed_7b", np.nanmean)
        return self.e(x, "Mixed_7c", np.nanmax).mean((2, 3))


def test_features_equal_the_reference(weights):
    params = inception_params(weights)
    images = np.random.default_rng(1).uniform(-1, 1, size=(1, 107, 110, 3)).astype(np.float32)
    _, apply = functional(Inception)
    features = np.asarray(jax.jit(apply)(params, images))
    expected = Reference(weights)(images)
    assert features.shape == (1, 2048)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_parameters_are_those_of_the_published_network(weights):
    """The count includes convolutions and normalisations, but not the classifier."""
    trained = [v.size for name, v in weights.items() if "running" not in name]
    assert sum(trained) == 21_785_568


def test_weights_of_another_network_are_refused(weights):
    other = {
        name: value for name, value in weights.items() if name != "Mixed_6e.branch_pool.bn.bias"
    }
    with pytest.raises(UserError, match=r"Mixed_6e\.branch_pool\.bn\.bias"):
        inception_params(other)
