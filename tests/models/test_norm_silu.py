"""Group normalisation with modulation and SiLU, compared with its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from femur_jax.models.norm_silu import norm_silu

GROUP, EPSILON = 4, 1e-6


def equation(x, scale, bias):
    b, h, w, c = x.shape
    groups = x.reshape(b, h * w, c // GROUP, GROUP)
    mean = groups.mean((1, 3), keepdims=True)
    variance = ((groups - mean) ** 2).mean((1, 3), keepdims=True)
    n = ((groups - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape)
    z = scale[:, None, None] * n + bias[:, None, None]
    return z / (1 + np.exp(-z))


def test_value_and_gradients_follow_the_equation():
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.standard_normal((2, 5, 6, 8))
    scale, bias = rng.standard_normal((2, 2, 8))
    weights = rng.standard_normal(x.shape)  # of the outputs in a sum, whose gradient is checked
    arguments = (x, scale, bias)
    singles = [jnp.asarray(a, jnp.float32) for a in arguments]

    def weighted(x, scale, bias):
        return jnp.sum(weights * norm_silu(x, scale, bias, GROUP, EPSILON))

    np.testing.assert_allclose(
        norm_silu(*singles, GROUP, EPSILON), equation(*arguments), rtol=1e-4, atol=1e-4
    )
    gradients = jax.jit(jax.grad(weighted, argnums=(0, 1, 2)))(*singles)
    step = 1e-5
    for number, gradient in enumerate(gradients):
        for _ in range(3):  # derivatives along random directions
            direction = rng.standard_normal(arguments[number].shape)
            moved = [
                [a + sign * step * direction if n == number else a for n, a in enumerate(arguments)]
                for sign in (1, -1)
            ]
            up, down = (np.sum(weights * equation(*m)) for m in moved)
            np.testing.assert_allclose(
                np.sum(gradient * direction), (up - down) / (2 * step), rtol=1e-3, atol=1e-3
            )


def test_a_constant_has_finite_gradients():
    x = jnp.full((1, 8, 8, 4), 1234.567)
    ones = jnp.ones((1, 4))
    gradient = jax.grad(lambda x: norm_silu(x, ones, ones, GROUP, EPSILON).sum())(x)
    assert np.isfinite(gradient).all()
