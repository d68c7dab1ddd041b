"""The residual network against published counts and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_layers import convolve, drawn_parameters, group_norm, to_float64
from scipy.special import logsumexp

from femur_jax.models.functional import functional
from femur_jax.models.resnet import ResidualBlock, ResNet, soft_maximum

images = jax.random.normal(jax.random.key(0), (3, 24, 20, 1))


def parameter_count(stage_sizes, bottleneck):
    init, _ = functional(lambda rngs: ResNet(stage_sizes, 64, 3, bottleneck, rngs=rngs))
    leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    return sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize(
    ("stage_sizes", "bottleneck", "published", "dim"),
    [
        ((2, 2, 2, 2), False, 11_689_512, 512),
        ((3, 4, 6, 3), True, 25_557_032, 2048),
    ],
    ids=["ResNet-18", "ResNet-50"],
)
def test_parameter_count(stage_sizes, bottleneck, published, dim):
    """The ImageNet models have 1000 logits and batch norm, whose affine maps count the same."""
    trunk = published - 1000 * (dim + 1)
    assert parameter_count(stage_sizes, bottleneck) == trunk + dim + 1


def test_operation_count():
    """ResNet-50 v1.5 takes 4.09 G multiply-adds at 224 x 224; v1, with other strides, 3.86 G."""
    init, apply = functional(lambda rngs: ResNet((3, 4, 6, 3), 64, 3, True, rngs=rngs))
    params = jax.eval_shape(init, jax.random.key(0))
    lowered = jax.jit(apply).lower(params, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert lowered.cost_analysis()["flops"] == pytest.approx(2 * 4.09e9, rel=0.04)


@pytest.fixture(scope="session")
def tiny():
    init, apply = functional(lambda rngs: ResNet((1, 1), 8, 1, True, rngs=rngs))
    return jax.jit(init)(jax.random.key(1)), jax.jit(apply)


def test_logit_is_linear_in_the_features(tiny):
    params, apply = tiny
    logit, features = apply(params, images)
    assert logit.shape == (3,)
    assert features.shape == (3, params["head"]["kernel"].shape[0])
    head = to_float64(params["head"])
    np.testing.assert_allclose(logit, features @ head["kernel"][:, 0] + head["bias"], rtol=1e-4)


def test_values_at_the_start(tiny):
    params, apply = tiny
    logit, features = apply(params, images)
    assert np.all(np.asarray(features) >= 0)
    assert 0.05 < np.mean(features) < 5
    assert np.max(np.abs(logit)) < 10


def test_each_image_is_scored_alone(tiny):
    params, apply = tiny
    np.testing.assert_allclose(
        apply(params, images)[0][1:2], apply(params, images[1:2])[0], rtol=1e-4, atol=1e-5
    )


def test_gain_of_the_image_does_not_matter(tiny):
    """The stem has no bias before its normalisation."""
    params, apply = tiny
    np.testing.assert_allclose(
        apply(params, 10 * images)[1], apply(params, images)[1], rtol=1e-3, atol=1e-4
    )


def test_gradient_is_finite_and_reaches_every_layer(tiny):
    params, apply = tiny
    # The branches' last scales start at zero, which stops gradients in front of them.
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.1), params)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(apply(p, images)[0] ** 2)))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf) != 0), path


@pytest.mark.parametrize("bottleneck", [False, True])
def test_block_equals_the_reference(bottleneck):
    init, apply = functional(lambda rngs: ResidualBlock(4, 6, 2, bottleneck, rngs))
    params = drawn_parameters(init)
    x = jax.random.normal(jax.random.key(3), (2, 7, 8, 4))

    def conv_norm(layer, x, stride):
        y = convolve(x, layer["conv"]["kernel"], stride)
        groups = {6: 2, 24: 8}[y.shape[3]]
        return group_norm(y, groups, layer["norm"]["scale"], layer["norm"]["bias"])

    p = to_float64(params)
    y = expected = np.asarray(x, np.float64)
    strides = (1, 2, 1) if bottleneck else (2, 1)
    for i, stride in enumerate(strides):
        y = np.maximum(y, 0) if i else y
        y = conv_norm(p["layers"][str(i)], y, stride)
    expected = np.maximum(y + conv_norm(p["shortcut"], expected, 2), 0)
    np.testing.assert_allclose(jax.jit(apply)(params, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 4.0, 300.0])
def test_soft_maximum_lies_between_mean_and_maximum(sharpness):
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    found = np.asarray(soft_maximum(jnp.asarray(x, jnp.float32), sharpness))
    expected = (logsumexp(sharpness * x, axis=(1, 2)) - np.log(15)) / sharpness
    np.testing.assert_allclose(found, expected, atol=2e-3 if sharpness < 0.1 else 1e-5)
    limit = {0.01: x.mean((1, 2)), 300.0: x.max((1, 2))}.get(sharpness)
    if limit is not None:
        np.testing.assert_allclose(found, limit, atol=0.02)


def test_a_sharp_network_sees_one_place():
    """A mark in the corner of a wide image moves sharp features more than averaged ones."""
    image = np.zeros((1, 32, 256, 1), np.float32)
    marked = image.copy()
    marked[0, :16, :16, 0] = np.random.default_rng(0).normal(size=(16, 16))
    moves = {}
    for sharpness in (0.0, 20.0):
        init, apply = functional(
            lambda rngs, sharpness=sharpness: ResNet((1,), 8, 1, False, sharpness, rngs=rngs)
        )
        params = init(jax.random.key(0))
        features = [np.asarray(apply(params, jnp.asarray(x))[1]) for x in (image, marked)]
        moves[sharpness] = float(np.abs(features[1] - features[0]).max())
    assert moves[20.0] > 3 * moves[0.0]
