"""Modules as pure functions: parameters are a plain nested dict, and a model is `init` and `apply`.

The rest of the project sees only these two, so that training states, checkpoints and sharding rules
handle ordinary trees of arrays and only the model files know the module library.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

Params = dict[str, Any]  # nested, string keys at every depth, arrays as leaves


class Functions(NamedTuple):
    """A model as two pure functions, to be traced by the caller's `jax.jit` or `jax.grad`.

    Attributes:
        init: maps a PRNG key to newly drawn parameters.
        apply: `apply(params, *args, **kwargs)` calls the module that holds these parameters, or
            with `method="name"` that method of it.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., Any]


def functional(build: Callable[[nnx.Rngs], nnx.Module]) -> Functions:
    """Turns a module's constructor into pure functions.

    The module's structure is found once, abstractly; `apply` merges it with the parameters at trace
    time, which costs nothing in the compiled program.

    Args:
        build: makes the module from its random streams. All of its state must be `nnx.Param`:
            randomness such as dropout is an argument of the call, never kept in the module.

    Raises:
        ValueError: the module keeps state other than parameters.
    """
    structure, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)

    def init(key: jax.Array) -> Params:
        return _string_keys(nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)))))

    def apply(params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        module = nnx.merge(structure, nnx.restore_int_paths(params))
        return getattr(module, method)(*args, **kwargs)

    return Functions(init, apply)


def _string_keys(tree: Any) -> Any:
    """Names list entries "0", "1", ...: checkpoints and sharding rules address leaves by name."""
    if not isinstance(tree, dict):
        return tree
    return {str(key): _string_keys(value) for key, value in tree.items()}
