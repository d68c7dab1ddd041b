"""Tests of `init` and `apply` against direct calls of the module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from femur_jax.models.functional import functional


class Perceptron(nnx.Module):
    """A perceptron with two layers in a list, so that paths have integer keys."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)])
        self.gain = nnx.Param(jnp.full((), 2.0))

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.gain * x


x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_apply_equals_the_module():
    init, apply = functional(Perceptron)
    params = init(jax.random.key(7))
    expected = Perceptron(nnx.Rngs(jax.random.key(7)))(x)
    np.testing.assert_allclose(jax.jit(apply)(params, x), expected, rtol=1e-6)


def test_gradient_equals_the_chain_rule():
    init, apply = functional(Perceptron)
    params = init(jax.random.key(7))
    gradient = jax.jit(jax.grad(lambda p: apply(p, x).sum()))(params)

    first, second = (
        {k: np.asarray(v, np.float64) for k, v in params["layers"][i].items()} for i in "01"
    )
    hidden = np.tanh(x @ first["kernel"] + first["bias"])
    out = np.tanh(hidden @ second["kernel"] + second["bias"])
    d_out = 2.0 * (1 - out**2)
    d_hidden = (d_out @ second["kernel"].T) * (1 - hidden**2)
    np.testing.assert_allclose(gradient["gain"], out.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient["layers"]["1"]["kernel"], hidden.T @ d_out, rtol=1e-4)
    np.testing.assert_allclose(gradient["layers"]["0"]["kernel"], x.T @ d_hidden, rtol=1e-4)


def test_parameters_are_a_plain_tree_with_string_keys():
    init, _ = functional(Perceptron)
    params = init(jax.random.key(0))
    assert type(params) is dict
    assert set(params) == {"gain", "layers"}
    assert set(params["layers"]) == {"0", "1"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_abstract_init_has_the_shapes_of_init():
    init, _ = functional(Perceptron)
    abstract = jax.eval_shape(init, jax.random.key(0))
    params = jax.jit(init)(jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), abstract
    )


def test_long_lists_keep_their_order():
    """JAX sorts trees by key, and as strings "10" comes before "2"."""

    class Chain(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(12)])

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    init, apply = functional(Chain)
    params = jax.tree.map(jnp.asarray, init(jax.random.key(0)))
    expected = np.ones((1, 2))
    for n in range(12):
        layer = params["layers"][str(n)]
        expected = expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    np.testing.assert_allclose(apply(params, jnp.ones((1, 2))), expected, rtol=1e-4)


def test_seed_decides_the_parameters():
    init, _ = functional(Perceptron)
    kernels = [init(jax.random.key(seed))["layers"]["0"]["kernel"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_state_other_than_parameters_is_refused():
    with pytest.raises(ValueError):
        functional(lambda rngs: nnx.BatchNorm(3, rngs=rngs))
