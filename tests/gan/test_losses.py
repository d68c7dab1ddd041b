"""The GAN loss in float64 against equations that can be solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.gan.losses import burn_in, discriminator_loss, generator_loss

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


def test_losses_of_a_linear_discriminator():
    d_real, d_fake = (np.einsum("nhwc,hwc->n", x, w) for x in (real, fake))
    loss, metrics = discriminator_loss(linear, jnp.asarray(real), jnp.asarray(fake), 0.0)
    np.testing.assert_allclose(loss, np.mean(softplus(d_fake - d_real)), rtol=1e-12)
    np.testing.assert_allclose(metrics["real_logit"], d_real.mean(), rtol=1e-12)
    np.testing.assert_allclose(metrics["fake_logit"], d_fake.mean(), rtol=1e-12)
    loss, _ = generator_loss(linear, jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(loss, np.mean(softplus(d_real - d_fake)), rtol=1e-12)


def test_penalties_of_a_linear_discriminator_are_its_squared_norm():
    _, metrics = discriminator_loss(linear, jnp.asarray(real), jnp.asarray(fake), 1.0)
    np.testing.assert_allclose(metrics["r1"], np.sum(w**2), rtol=1e-12)
    np.testing.assert_allclose(metrics["r2"], np.sum(w**2), rtol=1e-12)


def test_penalties_of_a_quadratic_discriminator():
    """D(x) = sum w x^2 / 2 has the gradient w x."""
    r1, r2 = (np.mean(np.sum((w * x) ** 2, axis=(1, 2, 3))) for x in (real, fake))
    d_real, d_fake = (np.sum(w * x**2, axis=(1, 2, 3)) / 2 for x in (real, fake))
    gamma = 3.0
    loss, metrics = discriminator_loss(quadratic, jnp.asarray(real), jnp.asarray(fake), gamma)
    np.testing.assert_allclose(metrics["r1"], r1, rtol=1e-12)
    np.testing.assert_allclose(metrics["r2"], r2, rtol=1e-12)
    adversarial = np.mean(softplus(d_fake - d_real))
    np.testing.assert_allclose(metrics["discriminator_loss"], adversarial, rtol=1e-12)
    np.testing.assert_allclose(loss, adversarial + gamma / 2 * (r1 + r2), rtol=1e-12)


def test_gradient_of_the_penalised_loss_by_finite_differences():
    """The penalties are differentiated once more, by the discriminator's parameters."""

    def loss(theta):
        def discriminate(images):
            return jnp.sum(jnp.tanh(images * theta), axis=(1, 2, 3))

        return discriminator_loss(discriminate, jnp.asarray(real), jnp.asarray(fake), 2.0)[0]

    theta, step = jnp.asarray(0.7), 1e-5
    numerical = (loss(theta + step) - loss(theta - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(theta), numerical, rtol=1e-6)


def test_gradient_directions():
    """The generator raises the fakes' scores; the discriminator holds the fakes constant."""
    by_fake = jax.grad(lambda x: generator_loss(linear, jnp.asarray(real), x)[0])(jnp.asarray(fake))
    assert np.all(np.einsum("nhwc,hwc->n", by_fake, w) < 0)
    by_fake = jax.grad(lambda x: discriminator_loss(quadratic, jnp.asarray(real), x, 1.0)[0])(
        jnp.asarray(fake)
    )
    np.testing.assert_array_equal(by_fake, 0)


def test_large_differences_do_not_overflow():
    loss, _ = generator_loss(lambda x: 1e4 * linear(x), jnp.asarray(real), jnp.asarray(fake))
    difference = 1e4 * np.einsum("nhwc,hwc->n", real - fake, w)
    np.testing.assert_allclose(loss, np.mean(softplus(difference)), rtol=1e-12)


def test_penalties_of_bfloat16_images_are_taken_in_float32():
    low = jnp.full((2, 3, 3, 1), 1.0, jnp.bfloat16)
    _, metrics = discriminator_loss(lambda x: 1.01 * jnp.sum(x, (1, 2, 3)), low, low, 1.0)
    assert metrics["r1"].dtype == jnp.float32
    np.testing.assert_allclose(metrics["r1"], 9 * 1.01**2, rtol=1e-6)


def test_burn_in_is_half_a_cosine():
    values = [burn_in(step, 150.0, 15.0, 100) for step in (0, 50, 100, 250)]
    np.testing.assert_allclose(values, [150, 82.5, 15, 15], rtol=1e-12)
    # A third of the way: cos(60 degrees) = 1/2, so a quarter of the change is done.
    np.testing.assert_allclose(burn_in(jnp.asarray(30), 0.9, 0.99, 90), 0.9225, rtol=1e-12)
