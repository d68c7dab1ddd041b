"""The arithmetic of a model, counted by hand."""

import jax
import jax.numpy as jnp

from femur_jax.gpu_plan.model_flops import matrix_flops


def flops(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return matrix_flops(jax.make_jaxpr(function)(*arrays).jaxpr)


def conv(x, w, stride=1):
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_matrix_products_and_their_gradients():
    assert flops(jnp.matmul, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(x @ w)), argnums=(0, 1))
    assert flops(gradient, (3, 4), (4, 5)) == 3 * 2 * 3 * 4 * 5


def test_convolutions_and_their_gradients():
    for stride in (1, 2):
        one = 2 * 7 * (8 // stride) ** 2 * 6 * (3 * 3 * 5)
        shapes = (7, 8, 8, 5), (3, 3, 5, 6)
        assert flops(lambda x, w: conv(x, w, stride), *shapes) == one  # noqa: B023
        gradient = jax.grad(lambda x, w: jnp.sum(conv(x, w, stride) ** 2), argnums=(0, 1))  # noqa: B023
        assert flops(gradient, *shapes) == 3 * one


def test_loops_count_as_often_as_they_run():
    def repeated(x):
        return jax.lax.fori_loop(0, 6, lambda _, y: jax.jit(jnp.matmul)(y, y), x)

    assert flops(repeated, (4, 4)) == 6 * 2 * 4**3
