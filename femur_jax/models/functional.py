"""Modules as the pure functions `init` and `apply`, with parameters in a plain nested dict.

The rest of the project uses only these two functions. So training states, checkpoints and sharding
rules handle ordinary trees of arrays, and only the model files depend on the module library.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

Params = dict[str, Any]  # nested, string keys at every depth, arrays as leaves


class Functions(NamedTuple):
    """A model as two pure functions for the caller's `jax.jit` or `jax.grad`.

    Attributes:
        init: A function that draws parameters from a PRNG key.
        apply: A function `apply(params, *args, **kwargs)` that calls the module with these
            parameters. With `method="name"` it calls that method of the module.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., Any]


def functional(build: Callable[[nnx.Rngs], nnx.Module]) -> Functions:
    """Turns a module's constructor into pure functions.

    The module's structure is traced once, without arrays. `apply` merges it with the parameters at
    trace time, which costs nothing in the compiled program.

    Args:
        build: A constructor of the module from its random streams. All state of the module must be
            `nnx.Param`; randomness such as dropout has to be an argument of the call.

    Raises:
        ValueError: The module has state other than parameters.
    """
    structure, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)

    def init(key: jax.Array) -> Params:
        return _string_keys(nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)))))

    def apply(params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        module = nnx.merge(structure, nnx.restore_int_paths(params))
        return getattr(module, method)(*args, **kwargs)

    return Functions(init, apply)


def _string_keys(tree: Any) -> Any:
    """Turns keys into strings, because checkpoints and sharding rules address leaves by name."""
    if not isinstance(tree, dict):
        return tree
    return {str(key): _string_keys(value) for key, value in tree.items()}
