"""Tests of the U-Net; `make bench` compares its output with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy_layers import drawn_parameters, group_norm, to_float64

from femur_jax.models.backend import planned_for
from femur_jax.models.functional import functional
from femur_jax.models.unet import GroupNorm, SelfAttention, UNet


def build(**changes):
    settings = {
        "in_channels": 3,
        "conditions": 4,
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (False, True),
        "head_channels": 8,
        "dropout": 0.0,
        "uncertainty": False,
        "dtype": "float32",
        "remat": False,
    } | changes
    return functional(lambda rngs: UNet(**settings, rngs=rngs))


@pytest.fixture(scope="module")
def unet():
    return build()


@pytest.fixture(scope="module")
def apply(unet):
    return jax.jit(unet.apply)


@pytest.fixture(scope="module")
def trained(unet):
    """Non-zero parameters."""
    return drawn_parameters(unet.init)


def inputs(batch=2):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.standard_normal((batch, 8, 8, 3)), jnp.float32),
        jnp.asarray(rng.standard_normal(batch), jnp.float32),
        jnp.asarray(rng.standard_normal((batch, 4)), jnp.float32),
    )


def test_starts_at_zero(unet):
    # So the untrained denoiser is c_skip x, the best linear guess at high and low noise.
    output = jax.jit(lambda key, *args: unet.apply(unet.init(key), *args))(
        jax.random.key(0), *inputs()
    )
    assert not np.asarray(output).any()


def test_patches_of_a_batch_do_not_mix(apply, trained):
    x, c_noise, conditions = inputs()
    both = apply(trained, x, c_noise, conditions)
    assert both.shape == (2, 8, 8, 1)
    one = apply(trained, x[1:], c_noise[1:], conditions[1:])
    np.testing.assert_allclose(both[1:], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_every_input_matters(apply, trained, argument):
    args = list(inputs())
    before = apply(trained, *args)
    args[argument] = args[argument] + 0.5
    assert np.abs(apply(trained, *args) - before).max() > 1e-3


def test_every_pixel_of_the_patch_matters(unet, trained):
    x, c_noise, conditions = inputs(1)

    def corner(x):
        return unet.apply(trained, x, c_noise, conditions)[0, 0, 0, 0]

    gradient = jax.jit(jax.grad(corner))(x)
    assert (np.abs(gradient[0]).max(axis=-1) > 0).all()


@pytest.fixture(scope="module")
def gradient(unet, trained):
    return gradient_of(unet, trained)


def gradient_of(unet, params):
    """The output and the gradient of its mean square."""

    def loss(params):
        F = unet.apply(params, *inputs())
        return (F**2).mean(), F

    gradient, F = jax.jit(jax.grad(loss, has_aux=True))(params)
    return F, gradient


def test_rematerialised_blocks_give_the_same_gradient(gradient, trained):
    rematerialised = gradient_of(build(remat=True), trained)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        rematerialised,
        gradient,
    )


def test_rematerialised_blocks_keep_less(trained):
    def kept(unet):
        def pull_back(params):
            return jax.vjp(lambda params: unet.apply(params, *inputs(8)), params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pull_back, trained)))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert kept(build(remat=True)) - parameters < 0.4 * (kept(build()) - parameters)


def test_bfloat16_computes_nearly_the_same_with_float32_parameters(gradient, trained):
    unet = build(dtype="bfloat16")
    shapes = jax.eval_shape(unet.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    low = gradient_of(unet, trained)
    assert {leaf.dtype for leaf in jax.tree.leaves(low)} == {jnp.dtype("float32")}
    for tree, exact_tree in zip(low, gradient, strict=True):
        rounded, exact = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)])
            for t in (tree, exact_tree)
        )
        # bfloat16 has 8 bits, so about 20 layers have errors of 1/256 each.
        assert 1e-4 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.2


def test_blocks_for_gpus_are_the_same_function(gradient, trained):
    with planned_for("gpu"):
        fused = gradient_of(build(), trained)
    for tree, expected in zip(fused, gradient, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), tree, expected
        )


def test_dropout_depends_on_its_key_and_needs_one(apply, trained):
    unet = jax.jit(build(dropout=0.3).apply)
    plain = apply(trained, *inputs())
    np.testing.assert_allclose(unet(trained, *inputs()), plain, rtol=1e-5, atol=1e-6)
    one, again, other = (unet(trained, *inputs(), jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - plain).max() > 1e-2 and np.abs(one - other).max() > 1e-2


def test_log_variance_is_linear_in_fourier_features_and_conditions():
    unet = build(uncertainty=True)
    params = drawn_parameters(unet.init)
    _, c_noise, conditions = inputs()
    p = to_float64(params)
    phase = 2 * np.pi * np.asarray(c_noise, float)[:, None] * p["noise"]["frequencies"]
    norm = np.sqrt(len(p["noise"]["frequencies"]))
    features = np.concatenate([np.cos(phase), np.sin(phase), norm * conditions], axis=1)
    expected = features @ p["uncertainty"]["kernel"] + p["uncertainty"]["bias"]
    u = unet.apply(params, c_noise, conditions, method="log_variance")
    np.testing.assert_allclose(u, expected[:, 0], rtol=1e-4, atol=1e-5)


def test_heads_attend_independently():
    module = functional(lambda rngs: SelfAttention(16, 2, "float32", rngs=rngs))
    params = drawn_parameters(module.init)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 16))
    p = to_float64(params)
    h = group_norm(x, 2, p["norm"]["scale"], p["norm"]["bias"]).reshape(2, 12, 16)
    qkv = (h @ p["qkv"]["kernel"] + p["qkv"]["bias"]).reshape(2, 12, 2, 3, 8)
    y = np.empty((2, 12, 16))
    for head in range(2):
        q, k, v = np.moveaxis(qkv[:, :, head], 2, 0)
        weight = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(8))
        y[..., 8 * head : 8 * head + 8] = weight / weight.sum(-1, keepdims=True) @ v
    y = (y @ p["out"]["kernel"] + p["out"]["bias"]).reshape(x.shape)
    result = module.apply(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(result, (x + y) / np.sqrt(2), rtol=1e-4, atol=1e-4)


def test_group_norm_equals_that_of_flax():
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 + 2 * rng.standard_normal((2, 5, 6, 16)), jnp.float32)
    scale, bias, *modulation = jnp.asarray(rng.standard_normal((4, 16)), jnp.float32)
    norm, flax_norm = GroupNorm(16), nnx.GroupNorm(16, num_groups=2, rngs=nnx.Rngs(0))
    for module in (norm, flax_norm):
        module.scale[...], module.bias[...] = scale, bias
    np.testing.assert_allclose(norm(x), flax_norm(x), rtol=1e-4, atol=1e-4)
    modulation = [jnp.stack([m, 2 * m]) for m in modulation]
    expected = flax_norm(x) * (1 + modulation[0][:, None, None]) + modulation[1][:, None, None]
    np.testing.assert_allclose(norm(x, modulation), expected, rtol=1e-4, atol=1e-4)


def test_group_norm_of_a_constant_is_finite():
    assert np.isfinite(GroupNorm(8)(jnp.full((1, 64, 64, 8), 1234.567))).all()
