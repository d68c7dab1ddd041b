"""Tests of R3GAN's networks against NumPy in float64 and published facts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_layers import convolve, drawn_parameters, resize_twofold, to_float64

from femur_jax.errors import UserError
from femur_jax.models.functional import functional
from femur_jax.models.r3gan import Discriminator, Generator, ResidualBlock, resample

PUBLISHED_DEVIATIONS = (0.383, 0.0405)  # standard deviations of images, and of logits of noise
SIZE, CHANNELS, LATENT, CONDITION, EMBEDDING = 16, (12, 8, 8), 5, 3, 6

rng = np.random.default_rng(0)
z = rng.normal(size=(2, LATENT)).astype(np.float32)
condition = rng.normal(size=(2, CONDITION)).astype(np.float32)
image = rng.normal(size=(2, SIZE, SIZE, 2)).astype(np.float32)


@pytest.fixture(scope="session")
def generator():
    init, apply = functional(
        lambda rngs: Generator(
            SIZE, CHANNELS, LATENT, CONDITION, embedding=EMBEDDING, blocks=1, rngs=rngs
        )
    )
    return drawn_parameters(init), jax.jit(apply)


@pytest.fixture(scope="session")
def discriminator():
    init, apply = functional(
        lambda rngs: Discriminator(SIZE, CHANNELS, 2, CONDITION, blocks=1, rngs=rngs)
    )
    return drawn_parameters(init), jax.jit(apply)


def leaky_relu(x):
    return np.where(x > 0, x, 0.2 * x)


def residual_block(p, x, groups=1):
    y = leaky_relu(x @ p["widen"]["kernel"] + p["activation1"]["bias"])
    y = convolve(y, p["spatial"]["kernel"], groups=groups)
    y = leaky_relu(y + p["activation2"]["bias"])
    return x + y @ p["narrow"]["kernel"]


def reference_generator(p, z, condition):
    layers = p["layers"]
    x = np.concatenate([z, condition @ p["embed"]["kernel"]], axis=1)
    x = layers["0"]["basis"] * (x @ layers["0"]["weight"]["kernel"])[:, None, None, :]  # 4 x 4
    x = residual_block(layers["1"], x)
    x = resize_twofold(x @ layers["2"]["mix"]["kernel"], up=True)  # 8 x 8, fewer channels
    x = residual_block(layers["3"], x)
    x = resize_twofold(x, up=True)  # 16 x 16, as many channels
    x = residual_block(layers["5"], x)
    return x @ layers["6"]["kernel"]


def reference_discriminator(p, image, condition):
    layers = p["layers"]
    x = image @ layers["6"]["kernel"]
    x = residual_block(layers["5"], x)
    x = resize_twofold(x, up=False)
    x = residual_block(layers["3"], x)
    x = resize_twofold(x, up=False) @ layers["2"]["mix"]["kernel"]
    x = residual_block(layers["1"], x)
    x = np.einsum("nhwc,hwc->nc", x, layers["0"]["basis"]) @ layers["0"]["weight"]["kernel"]
    return np.einsum("ne,ne->n", x, condition @ p["embed"]["kernel"])


def test_generator_equals_the_reference(generator):
    params, apply = generator
    images = apply(params, z, condition)
    assert images.shape == (2, SIZE, SIZE, 1)
    np.testing.assert_allclose(
        images, reference_generator(to_float64(params), z, condition), rtol=1e-4, atol=1e-4
    )


def test_discriminator_equals_the_reference(discriminator):
    params, apply = discriminator
    logits = apply(params, image, condition)
    assert logits.shape == (2,)
    expected = reference_discriminator(to_float64(params), image, condition)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("group_width", "groups"), [(None, 1), (4, 3), (1, 12)])
def test_residual_block_equals_the_reference(group_width, groups):
    init, apply = functional(lambda rngs: ResidualBlock(6, group_width, 4, rngs))
    params = drawn_parameters(init)
    x = jax.random.normal(jax.random.key(6), (2, 5, 5, 6))
    expected = residual_block(to_float64(params), np.asarray(x, np.float64), groups)
    np.testing.assert_allclose(jax.jit(apply)(params, x), expected, rtol=1e-4, atol=1e-4)


def test_low_pass_of_an_impulse():
    impulse = np.zeros((1, 8, 8, 1), np.float32)
    impulse[0, 4, 4] = 1
    expected = np.zeros(16)
    expected[7:11] = np.array([1, 3, 3, 1]) / 4
    np.testing.assert_allclose(
        resample(jnp.asarray(impulse), 16)[0, :, :, 0], np.outer(expected, expected), atol=1e-6
    )
    expected = np.array([0, 1, 3, 0]) / 8  # output pixels 1 and 2 adjoin input pixel 4
    np.testing.assert_allclose(
        resample(jnp.asarray(impulse), 4)[0, :, :, 0], np.outer(expected, expected), atol=1e-6
    )


def test_blocks_start_as_the_identity_at_the_published_scale():
    depth, channels = 9, 64
    init, apply = functional(lambda rngs: ResidualBlock(channels, None, depth, rngs))
    params = jax.jit(init)(jax.random.key(3))
    x = jax.random.normal(jax.random.key(6), (1, 4, 4, channels))
    np.testing.assert_array_equal(apply(params, x), x)
    # Fix-up's L^(-1 / (2m - 2)) with m = 3 layers, times He's sqrt(2 / (1 + slope^2) / fan in).
    scale = depth**-0.25 * np.sqrt(2 / 1.04)
    assert np.std(params["widen"]["kernel"]) == pytest.approx(scale / np.sqrt(64), rel=0.05)
    assert np.std(params["spatial"]["kernel"]) == pytest.approx(scale / np.sqrt(9 * 128), rel=0.05)


def count(build):
    """Number of parameters, which are not drawn."""
    drawn = jax.eval_shape(functional(build).init, jax.random.key(0))
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(drawn))


def test_published_numbers_of_parameters():
    """The numbers were counted in github.com/brownvc/R3GAN, commit 19a7ddf."""
    wide = {"group_width": 16, "blocks": 2}

    def generator(size, channels, condition):
        return count(lambda rngs: Generator(size, channels, 64, condition, rngs=rngs, **wide))

    def discriminator(size, channels, condition):
        return count(lambda rngs: Discriminator(size, channels, 3, condition, rngs=rngs, **wide))

    # CIFAR-10, conditional. The published generator has three colours instead of one.
    assert generator(32, (768,) * 4, 10) == 20_781_952 - 2 * 768
    assert discriminator(32, (768,) * 4, 10) == 21_280_512
    # FFHQ-256, without conditions: minus the embedding and the weights connected to it.
    channels = (768, 768, 768, 768, 384, 192, 96)
    assert generator(256, channels, 1) - 64 - 64 * 768 == 23_057_952 - 2 * 96
    assert discriminator(256, channels, 1) - 768 - 768 * 767 == 23_009_568


def test_statistics_at_the_start_are_the_published_ones():
    """The published values are medians over many draws of the published networks, same widths."""
    channels = (96, 96, 48)
    # Blocks start as the identity, so the fastest setting is used: one block, without groups.
    g = functional(lambda rngs: Generator(16, channels, 64, 10, blocks=1, rngs=rngs))
    d = functional(lambda rngs: Discriminator(16, channels, 1, 10, blocks=1, rngs=rngs))
    condition = jnp.eye(10)[jnp.arange(32) % 10]

    @jax.jit
    def deviations(key):
        keys = jax.random.split(key, 4)
        images = g.apply(g.init(keys[0]), jax.random.normal(keys[1], (32, 64)), condition)
        noise = jax.random.normal(keys[2], (32, 16, 16, 1))
        return jnp.std(images), jnp.std(d.apply(d.init(keys[3]), noise, condition))

    draws = [deviations(key) for key in jax.random.split(jax.random.key(0), 20)]
    np.testing.assert_allclose(np.median(draws, axis=0), PUBLISHED_DEVIATIONS, rtol=0.15)


def test_bfloat16_stays_near_float32(generator, discriminator):
    """The four finest sizes compute in bfloat16; images and logits stay float32."""
    params, apply = generator
    low = functional(
        lambda rngs: Generator(
            SIZE,
            CHANNELS,
            LATENT,
            CONDITION,
            embedding=EMBEDDING,
            blocks=1,
            dtype=jnp.bfloat16,
            rngs=rngs,
        )
    )
    images, exact = (f(params, z, condition) for f in (jax.jit(low.apply), apply))
    assert images.dtype == jnp.float32
    assert 0 < np.std(images - exact) < 0.03 * np.std(exact)
    params, apply = discriminator
    low = functional(
        lambda rngs: Discriminator(
            SIZE, CHANNELS, 2, CONDITION, blocks=1, dtype=jnp.bfloat16, rngs=rngs
        )
    )
    logits, exact = (f(params, image, condition) for f in (jax.jit(low.apply), apply))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, rtol=0.05)


@pytest.mark.parametrize(
    ("size", "channels", "group_width", "words"),
    [
        (24, (8, 8, 8), None, "24"),
        (2, (), None, "power of two"),
        (16, (8, 8), None, "4, 8, 16"),
        (8, (8, 6), 16, "group_width 16"),
        (8, (8, 0), None, "1 or more"),
    ],
)
@pytest.mark.parametrize("model", [Generator, Discriminator])
def test_sizes_that_do_not_fit_are_refused(model, size, channels, group_width, words):
    with pytest.raises(UserError, match=words):
        functional(lambda rngs: model(size, channels, 4, 4, group_width=group_width, rngs=rngs))
