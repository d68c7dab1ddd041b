"""Batches that do not fit in memory: one part after the other, and the mean over them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree


def mean_over_parts(
    function: Callable[[dict[str, Array], Key[Array, ""]], PyTree],
    batch: dict[str, Array],
    key: Key[Array, ""],
    parts: int,
) -> PyTree:
    """The mean of a function of a batch, such as loss and gradient, over equal parts of it.

    Each device gives its share to each part, so nothing moves between devices. The parts'
    randomness differs; apart from it the mean over samples is that of the whole batch.

    Args:
        function: Of a batch and a key, to a tree of floating-point arrays.
        batch: Arrays whose first axis is a multiple of `parts`.
        key: Split between the parts, where there are several.
        parts: How many; the memory for activations is divided by it.
    """
    if parts == 1:
        return function(batch, key)

    def split(array: Array) -> Array:
        return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)

    def add(total: PyTree, part: tuple) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    split_batch, keys = jax.tree.map(split, batch), jax.random.split(key, parts)
    first = jax.tree.map(lambda array: array[0], split_batch)
    zeros = jax.tree.map(
        lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(function, first, keys[0])
    )
    total, _ = jax.lax.scan(add, zeros, (split_batch, keys))
    return jax.tree.map(lambda array: array / parts, total)
