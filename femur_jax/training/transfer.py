"""The start of a run from the parameters of another model, as far as they fit."""

from collections.abc import Mapping
from dataclasses import replace

import jax
from jaxtyping import Array

from femur_jax.errors import UserError
from femur_jax.training.state import TrainState
from femur_jax.training.trees import by_path


def fits(array: Array, shape: tuple[int, ...]) -> bool:
    """Whether an array can start from one of this shape, which may differ in the first axis."""
    return array.ndim > 0 and array.shape[1:] == shape[1:]


def transfer(state: TrainState, arrays: Mapping[str, Array], source: str) -> TrainState:
    """Fills a first state with the arrays of another model that fit, and prints how much that is.

    Where only the number of inputs differs (the first axis), the inputs that both have are filled.
    Step and optimizer stay as they are.

    Args:
        state: State before the first step.
        arrays: Parameters and averages by path, as `params/conv/kernel`.
        source: Name of the other model for the messages.

    Raises:
        UserError: No parameter fits.
    """
    tree = {"params": state.params, "ema": state.ema}
    own = by_path(tree)
    fitting = {name for name in own if name in arrays and fits(own[name], arrays[name].shape)}
    sizes = {name: own[name].size for name in own if name.startswith("params/")}
    new = [name for name in sizes if name not in fitting]
    if len(new) == len(sizes):
        raise UserError(
            f"No parameter of this model has the name and shape of one in {source}; start from a "
            "run of a more similar model."
        )
    filled = [_filled(own[name], arrays[name]) if name in fitting else own[name] for name in own]
    share = 1 - sum(sizes[name] for name in new) / sum(sizes.values())
    if jax.process_index() == 0:
        rest = f"; new are {', '.join(new)}" if new else ""
        print(f"{share:.1%} of the parameters start from {source}{rest}.")
    return replace(state, **jax.tree.unflatten(jax.tree.structure(tree), filled))


def _filled(array: Array, start: Array) -> Array:
    """The array with the rows of another one, as far as these go, in its own sharding."""
    if array.shape == start.shape:
        return jax.device_put(start, array.sharding)
    rows = min(len(array), len(start))
    return jax.jit(lambda a, s: a.at[:rows].set(s[:rows]), out_shardings=array.sharding)(
        array, start
    )
