"""The U-Net; its output is checked against PyTorch in tools/benchmark.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.models.functional import functional
from femur_jax.models.unet import UNet


@pytest.fixture(scope="module")
def unet():
    return functional(
        lambda rngs: UNet(
            in_channels=3,
            conditions=4,
            channels=8,
            multipliers=(1, 2),
            blocks=1,
            attention=(False, True),
            rngs=rngs,
        )
    )


@pytest.fixture(scope="module")
def trained(unet):
    """Parameters away from their initial zeros."""
    params = jax.jit(unet.init)(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)


def inputs(batch=2):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.standard_normal((batch, 8, 8, 3)), jnp.float32),
        jnp.asarray(rng.standard_normal(batch), jnp.float32),
        jnp.asarray(rng.standard_normal((batch, 4)), jnp.float32),
    )


def test_starts_at_zero(unet):
    # So the untrained denoiser is c_skip x, the best linear guess at high and low noise.
    made = jax.jit(lambda key, *args: unet.apply(unet.init(key), *args))(
        jax.random.key(0), *inputs()
    )
    assert not np.asarray(made).any()


def test_patches_of_a_batch_do_not_mix(unet, trained):
    apply = jax.jit(unet.apply)
    x, c_noise, conditions = inputs()
    both = apply(trained, x, c_noise, conditions)
    assert both.shape == (2, 8, 8, 1)
    one = apply(trained, x[1:], c_noise[1:], conditions[1:])
    np.testing.assert_allclose(both[1:], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_every_input_matters(unet, trained, argument):
    apply = jax.jit(unet.apply)
    args = list(inputs())
    before = apply(trained, *args)
    args[argument] = args[argument] + 0.5
    assert np.abs(apply(trained, *args) - before).max() > 1e-3


def test_sees_the_whole_patch(unet, trained):
    x, c_noise, conditions = inputs(1)

    def corner(x):
        return unet.apply(trained, x, c_noise, conditions)[0, 0, 0, 0]

    gradient = jax.jit(jax.grad(corner))(x)
    assert (np.abs(gradient[0]).max(axis=-1) > 0).all()


def test_group_norm_is_that_of_flax():
    from flax import nnx

    from femur_jax.models.unet import GroupNorm

    rng = np.random.default_rng(0)
    x = jnp.asarray(3 + 2 * rng.standard_normal((2, 5, 6, 16)), jnp.float32)
    scale, bias, *modulation = jnp.asarray(rng.standard_normal((4, 16)), jnp.float32)
    own, peer = GroupNorm(16), nnx.GroupNorm(16, num_groups=2, rngs=nnx.Rngs(0))
    for norm in (own, peer):
        norm.scale[...], norm.bias[...] = scale, bias
    np.testing.assert_allclose(own(x), peer(x), rtol=1e-4, atol=1e-4)
    modulation = [jnp.stack([m, 2 * m]) for m in modulation]
    expected = peer(x) * (1 + modulation[0][:, None, None]) + modulation[1][:, None, None]
    np.testing.assert_allclose(own(x, modulation), expected, rtol=1e-4, atol=1e-4)
