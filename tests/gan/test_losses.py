"""The GAN loss in float64 against equations that can be solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.gan.losses import burn_in, discriminator_loss, generator_loss
from femur_jax.models.functional import functional
from femur_jax.models.r3gan import Discriminator

rng = np.random.default_rng(0)
real, fake = rng.normal(size=(2, 5, 4, 3, 1))
w = rng.normal(size=(4, 3, 1))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def linear(images):
    return jnp.einsum("nhwc,hwc->n", images, w)


def quadratic(images):
    return jnp.sum(w * images**2, axis=(1, 2, 3)) / 2


def softplus(x):
    return np.logaddexp(0, x)


def penalised(discriminate, gamma):
    return discriminator_loss(discriminate, jnp.asarray(real), jnp.asarray(fake), gamma)


def test_losses_of_a_linear_discriminator():
    d_real, d_fake = (np.einsum("nhwc,hwc->n", x, w) for x in (real, fake))
    loss, terms = penalised(linear, 0.0)
    np.testing.assert_allclose(loss, np.mean(softplus(d_fake - d_real)), rtol=1e-12)
    np.testing.assert_allclose(terms["real_logits"], d_real, rtol=1e-12)
    np.testing.assert_allclose(terms["fake_logits"], d_fake, rtol=1e-12)
    loss = generator_loss(jnp.asarray(d_real), jnp.asarray(d_fake))
    np.testing.assert_allclose(loss, np.mean(softplus(d_real - d_fake)), rtol=1e-12)


def test_penalties_of_a_linear_discriminator_are_its_squared_norm():
    _, terms = penalised(linear, 1.0)
    np.testing.assert_allclose(terms["r1"], np.sum(w**2), rtol=1e-12)
    np.testing.assert_allclose(terms["r2"], np.sum(w**2), rtol=1e-12)


def test_penalties_of_a_quadratic_discriminator():
    """D(x) = sum w x^2 / 2 has the gradient w x."""
    r1, r2 = (np.mean(np.sum((w * x) ** 2, axis=(1, 2, 3))) for x in (real, fake))
    d_real, d_fake = (np.sum(w * x**2, axis=(1, 2, 3)) / 2 for x in (real, fake))
    gamma = 3.0
    loss, terms = penalised(quadratic, gamma)
    np.testing.assert_allclose(terms["r1"], r1, rtol=1e-12)
    np.testing.assert_allclose(terms["r2"], r2, rtol=1e-12)
    adversarial = np.mean(softplus(d_fake - d_real))
    np.testing.assert_allclose(terms["adversarial"], adversarial, rtol=1e-12)
    np.testing.assert_allclose(loss, adversarial + gamma / 2 * (r1 + r2), rtol=1e-12)


def test_gradient_of_the_penalised_loss_of_a_discriminator_by_finite_differences():
    """The penalties are differentiated once more, with respect to all parameters."""
    init, apply = functional(lambda rngs: Discriminator(8, (6, 4), 1, 3, blocks=1, rngs=rngs))
    leaves, structure = jax.tree.flatten(init(jax.random.key(0)))
    theta = [leaf + 0.3 * rng.normal(size=leaf.shape) for leaf in leaves]
    direction = [rng.normal(size=leaf.shape) for leaf in leaves]
    x, generated = jnp.asarray(rng.normal(size=(2, 3, 8, 8, 1)))
    condition = jnp.repeat(jnp.asarray(rng.normal(size=(3, 3))), 2, axis=0)

    @jax.jit
    def loss(theta):
        params = jax.tree.unflatten(structure, theta)
        return discriminator_loss(
            lambda images: apply(params, images, condition), x, generated, 2.0
        )[0]

    gradient = jax.jit(jax.grad(loss))(theta)
    step = 1e-5
    forward, backward = (
        loss([t + sign * step * d for t, d in zip(theta, direction, strict=True)])
        for sign in (1, -1)
    )
    analytic = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(analytic, (forward - backward) / (2 * step), rtol=1e-6)


def test_gradient_directions():
    """The generator raises the fakes' scores; the discriminator holds the fakes constant."""
    d_real = linear(jnp.asarray(real))
    by_fake = jax.grad(lambda x: generator_loss(d_real, linear(x)))(jnp.asarray(fake))
    assert np.all(np.einsum("nhwc,hwc->n", by_fake, w) < 0)
    by_fake = jax.grad(lambda x: discriminator_loss(quadratic, jnp.asarray(real), x, 1.0)[0])(
        jnp.asarray(fake)
    )
    np.testing.assert_array_equal(by_fake, 0)


def test_large_differences_do_not_overflow():
    loss = generator_loss(*(1e4 * linear(jnp.asarray(x)) for x in (real, fake)))
    difference = 1e4 * np.einsum("nhwc,hwc->n", real - fake, w)
    np.testing.assert_allclose(loss, np.mean(softplus(difference)), rtol=1e-12)


def test_penalties_of_bfloat16_images_are_taken_in_float32():
    low = jnp.full((2, 3, 3, 1), 1.0, jnp.bfloat16)
    _, terms = discriminator_loss(lambda x: 1.01 * jnp.sum(x, (1, 2, 3)), low, low, 1.0)
    assert terms["r1"].dtype == jnp.float32
    np.testing.assert_allclose(terms["r1"], 9 * 1.01**2, rtol=1e-6)


def test_burn_in_is_half_a_cosine():
    values = [burn_in(step, 150.0, 15.0, 100) for step in (0, 50, 100, 250)]
    np.testing.assert_allclose(values, [150, 82.5, 15, 15], rtol=1e-12)
    # After a third, cos(60 degrees) = 1/2, so a quarter of the change is done.
    np.testing.assert_allclose(burn_in(jnp.asarray(30), 0.9, 0.99, 90), 0.9225, rtol=1e-12)
