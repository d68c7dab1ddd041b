"""Tests of the residual network against published counts and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_layers import convolve, drawn_parameters, group_norm, to_float64
from scipy.special import logsumexp

from femur_jax.errors import UserError
from femur_jax.models.functional import functional
from femur_jax.models.resnet import ResidualBlock, ResNet, imported_trunk, soft_maximum

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
    """The ImageNet models have 1000 logits; their batch norms have as many parameters."""
    trunk = published - 1000 * (dim + 1)
    assert parameter_count(stage_sizes, bottleneck) == trunk + dim + 1


def test_operation_count():
    """ResNet-50 v1.5 needs 4.09 G multiply-adds at 224 x 224; v1, with other strides, 3.86 G."""
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
    # The branches' last scales start at zero, which makes gradients before them zero.
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
    result = np.asarray(soft_maximum(jnp.asarray(x, jnp.float32), sharpness))
    expected = (logsumexp(sharpness * x, axis=(1, 2)) - np.log(15)) / sharpness
    np.testing.assert_allclose(result, expected, atol=2e-3 if sharpness < 0.1 else 1e-5)
    limit = {0.01: x.mean((1, 2)), 300.0: x.max((1, 2))}.get(sharpness)
    if limit is not None:
        np.testing.assert_allclose(result, limit, atol=0.02)


def test_a_sharp_network_reacts_to_a_small_mark():
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


def torchvision_names(stages, width):
    """Shape, stride and norm of each convolution of a bottleneck ResNet by torchvision's name."""
    layers = {"conv1": ((width, 3, 7, 7), 2, "bn1")}
    inputs = width
    for stage, count in enumerate(stages, 1):
        inner = width * 2 ** (stage - 1)
        for n in range(count):
            prefix, stride = f"layer{stage}.{n}", 2 if stage > 1 and n == 0 else 1
            shapes = ((inner, inputs, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1))
            for i, shape in enumerate(shapes, 1):
                layers[f"{prefix}.conv{i}"] = shape, stride if i == 2 else 1, f"{prefix}.bn{i}"
            if n == 0:
                shape = (4 * inner, inputs, 1, 1)
                layers[f"{prefix}.downsample.0"] = shape, stride, f"{prefix}.downsample.1"
            inputs = 4 * inner
    return layers


def drawn_weights(layers):
    """Random weights with batch normalisation, as in a file of torchvision."""
    rng = np.random.default_rng(0)
    weights = {"fc.weight": rng.normal(size=(1000, 2048)), "fc.bias": rng.normal(size=1000)}
    for name, (shape, _, norm) in layers.items():
        weights[f"{name}.weight"] = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{norm}.weight"] = rng.uniform(0.3, 0.8, shape[0])
        weights[f"{norm}.bias"] = 0.1 * rng.normal(size=shape[0])
        weights[f"{norm}.running_mean"] = 0.1 * rng.normal(size=shape[0])
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0])
    return {name: value.astype(np.float32) for name, value in weights.items()}


def torchvision_forward(weights, layers, x):
    """ResNet in NumPy and float64, channels first, following torchvision's `forward`."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def conv_norm(x, name):
        (_, _, size, _), stride, norm = layers[name]
        pad = size // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        views = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        y = np.tensordot(
            views[:, :, ::stride, ::stride], w[f"{name}.weight"], ((1, 4, 5), (1, 2, 3))
        )
        y = (y - w[f"{norm}.running_mean"]) / np.sqrt(w[f"{norm}.running_var"] + 1e-5)
        return np.moveaxis(y * w[f"{norm}.weight"] + w[f"{norm}.bias"], 3, 1)

    x = np.maximum(conv_norm(np.moveaxis(x, 3, 1), "conv1"), 0)
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))  # the minimum after the ReLU is zero
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max((4, 5))
    for prefix in dict.fromkeys(name.rpartition(".conv")[0] for name in layers if ".conv" in name):
        y = np.maximum(conv_norm(x, f"{prefix}.conv1"), 0)
        y = conv_norm(np.maximum(conv_norm(y, f"{prefix}.conv2"), 0), f"{prefix}.conv3")
        down = f"{prefix}.downsample.0"
        x = np.maximum(y + (conv_norm(x, down) if down in layers else x), 0)
    return x.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"]


def zeros(init):
    return jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(init, jax.random.key(0))
    )


@pytest.fixture(scope="module")
def imported():
    """The convolutions of ResNet-50, and random weights."""
    layers = torchvision_names((3, 4, 6, 3), 64)
    return layers, drawn_weights(layers)


def test_imported_resnet50_has_torchvisions_logits(imported):
    layers, weights = imported
    init, apply = functional(
        lambda rngs: ResNet((3, 4, 6, 3), 64, 3, True, norm="fixed", rngs=rngs)
    )
    params = zeros(init)
    params = imported_trunk(params, weights, grey=False)
    params["head"] = {"kernel": weights["fc.weight"][:1].T, "bias": weights["fc.bias"][:1]}
    colours = np.random.default_rng(1).normal(size=(2, 70, 64, 3)).astype(np.float32)
    apply = jax.jit(apply)
    logit, features = apply(params, colours)
    expected = torchvision_forward(weights, layers, colours)
    np.testing.assert_allclose(logit, expected[:, 0], atol=1e-4 * abs(expected).max())
    logits = np.asarray(features) @ weights["fc.weight"].T + weights["fc.bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * abs(expected).max())
    # A grey image in the first channel has the features of an image with three equal colours.
    grey = imported_trunk(params, weights, grey=True)
    only_first = colours * np.array([1, 0, 0], np.float32)
    np.testing.assert_allclose(
        apply(grey, only_first)[1],
        apply(params, np.repeat(colours[..., :1], 3, -1))[1],
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_file_of_another_resnet_is_refused(imported):
    _, weights = imported
    init, _ = functional(lambda rngs: ResNet((2, 2), 64, 3, False, norm="fixed", rngs=rngs))
    with pytest.raises(UserError, match=r"layer1\.0\.conv1\.weight .* \(64, 64, 1, 1\)"):
        imported_trunk(zeros(init), weights, grey=True)
    with pytest.raises(UserError, match="layer, "):
        functional(lambda rngs: ResNet((1,), 8, 1, False, norm="layer, ", rngs=rngs))
