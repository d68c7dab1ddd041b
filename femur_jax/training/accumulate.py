"""Gradient accumulation: a batch that does not fit into memory is processed in microbatches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree


def mean_over_microbatches(
    function: Callable[[dict[str, Array], Key[Array, ""]], PyTree],
    batch: dict[str, Array],
    key: Key[Array, ""],
    count: int,
) -> PyTree:
    """Averages a function of a batch, such as the gradient, over equal parts of the batch.

    Each device splits its own samples, so nothing moves between devices. The microbatches have
    different random numbers; apart from these, the mean over samples is that of the whole batch.

    Args:
        function: A function of a batch and a key that returns a tree of floating-point arrays.
        batch: Arrays whose first axis is a multiple of `count`.
        key: The key for the random numbers; it is split where there are several microbatches.
        count: The number of microbatches; the memory for activations is divided by it.
    """
    if count == 1:
        return function(batch, key)

    def split(array: Array) -> Array:
        return array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)

    def add(total: PyTree, microbatch: tuple) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(*microbatch)), None

    microbatches, keys = jax.tree.map(split, batch), jax.random.split(key, count)
    first = jax.tree.map(lambda array: array[0], microbatches)
    zeros = jax.tree.map(
        lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(function, first, keys[0])
    )
    total, _ = jax.lax.scan(add, zeros, (microbatches, keys))
    return jax.tree.map(lambda array: array / count, total)
