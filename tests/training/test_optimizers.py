"""Muon and Adam, compared with their equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.parallel.mesh import AXES, make_mesh
from femur_jax.parallel.rules import state_shardings
from femur_jax.training.optimizers import clipped_optimizer

RATE = 0.01


def head(path):
    return jax.tree_util.keystr(path, simple=True, separator="/") == "head/kernel"


def gradients(seed):
    """Gradients of a network, of a norm below 1."""
    shapes = {
        "conv": {"kernel": (3, 3, 4, 6), "bias": (6,)},
        "linear": {"kernel": (12, 5)},
        "head": {"kernel": (3, 3, 4, 1)},
    }
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: 0.02 * rng.standard_normal(shape), shapes, is_leaf=lambda s: type(s) is tuple
    )


def updates(optimizer, steps):
    """The update of each step."""
    params = jax.tree.map(lambda g: jnp.zeros(g.shape, jnp.float32), gradients(0))
    state = optimizer.init(params)
    for n in range(steps):
        gradient = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradients(n))
        update, state = optimizer.update(gradient, state, params)
        yield update


def muon(matrices):
    """Muon's update after some gradients of one matrix (Jordan et al. 2024), without the rate."""
    beta, momentum = 0.95, 0.0
    for t, gradient in enumerate(matrices, start=1):
        momentum = beta * momentum + (1 - beta) * gradient
        # Nesterov's momentum with the corrections for the start of the average, as in NAdam.
        m = beta * momentum / (1 - beta ** (t + 1)) + (1 - beta) * gradient / (1 - beta**t)
    x = m / np.linalg.norm(m)
    if x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    x = x if x.shape == m.shape else x.T
    return 0.2 * np.sqrt(max(x.shape)) * x


def test_matrices_and_kernels_follow_muon():
    *_, update = updates(clipped_optimizer("muon", lambda step: RATE, head), 3)
    for name, shape in (("conv", (36, 6)), ("linear", (12, 5))):
        matrices = [gradients(n)[name]["kernel"].reshape(shape) for n in range(3)]
        result = np.asarray(update[name]["kernel"]).reshape(shape)
        np.testing.assert_allclose(result, -RATE * muon(matrices), rtol=1e-3, atol=1e-6)
        # The update is close to a multiple of an orthogonal matrix, of the size of Adam's.
        singular = np.linalg.svd(result, compute_uv=False)
        assert singular.max() / singular.min() < 2
        assert 0.1 * RATE < np.sqrt((result**2).mean()) < 0.3 * RATE


def test_all_else_follows_adam():
    ours = updates(clipped_optimizer("muon", lambda step: RATE, head), 3)
    peer = updates(optax.nadam(RATE, b2=0.99), 3)
    for update, expected in zip(ours, peer, strict=True):
        for layer, name in (("conv", "bias"), ("head", "kernel")):
            np.testing.assert_allclose(update[layer][name], expected[layer][name], rtol=1e-4)


def test_the_gradient_is_clipped_at_a_norm_of_one():
    optimizer = clipped_optimizer("adam", lambda step: RATE)
    large = jax.tree.map(lambda g: jnp.asarray(100 * g, jnp.float32), gradients(0))
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(large)))
    assert norm > 1
    _, state = optimizer.update(large, optimizer.init(large))
    jax.tree.map(
        lambda mu, g: np.testing.assert_allclose(mu, 0.1 * g / norm, rtol=1e-4),
        optax.tree.get(state, "mu"),
        large,
    )


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_sharded_matrices_have_the_same_update(sizes):
    # An orthogonal form depends on the whole matrix, and each device has only a part.
    rng = np.random.default_rng(0)
    shapes = {"conv1": (3, 3, 8, 16), "qkv": (16, 48), "modulation": (32, 16)}
    arrays = {
        name: {"kernel": jnp.asarray(0.02 * rng.standard_normal(shape), jnp.float32)}
        for name, shape in shapes.items()
    }
    optimizer = clipped_optimizer("muon", lambda step: RATE)

    def update(gradient, params):
        first, state = optimizer.update(gradient, optimizer.init(params), params)
        return first, optimizer.update(jax.tree.map(jnp.sin, gradient), state, params)[0]

    mesh = make_mesh(ConfigDict(dict(zip(AXES, sizes, strict=True))))
    shardings = state_shardings(jax.eval_shape(lambda: arrays), mesh, DiffusionTask.rules)
    assert any(axis for leaf in jax.tree.leaves(shardings) for axis in leaf.spec)
    divided = jax.device_put(arrays, shardings)
    sharded = jax.jit(update, out_shardings=(shardings, shardings))(divided, divided)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        sharded,
        jax.jit(update)(arrays, arrays),
    )


def test_an_unknown_optimizer_is_an_error():
    with pytest.raises(UserError, match="write one of muon, adam"):
        clipped_optimizer("sgd", lambda step: RATE)
