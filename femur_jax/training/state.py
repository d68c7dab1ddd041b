"""What a training run carries from step to step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """Plain arrays (or their shapes or shardings); with the config, all that a restart needs.

    The position in the data and the random keys follow from `step` and the seed.
    """

    step: Any
    """Updates done, an int32 scalar."""
    params: PyTree
    ema: PyTree
    """Moving average of the parameters (of the generator alone in a GAN), or several of them by
    width (see `training.ema`); models sample with it."""
    optimizer: Any


def begin(params: PyTree, ema: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step of a model that is one network."""
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, ema=ema, optimizer=optimizer.init(params)
    )


def advance(
    state: TrainState,
    gradient: PyTree,
    optimizer: optax.GradientTransformation,
    update_ema: Callable[[PyTree, PyTree, Array], PyTree],
) -> TrainState:
    """The state after one update of a model that is one network.

    Args:
        state: The state before.
        gradient: Of the parameters.
        optimizer: Whose state `state` holds.
        update_ema: Gives the moving average from the one before, the new parameters, and the
            number of steps before this one.
    """
    update, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    return TrainState(
        step=state.step + 1,
        params=params,
        ema=update_ema(state.ema, params, state.step),
        optimizer=optimizer_state,
    )


def update_ema(ema: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
    """One step of an exponential moving average: d * ema + (1 - d) * params.

    d is `decay`, but at most (1 + step) / (10 + step), so that the average of a young run does
    not hold on to its first parameters.
    """
    d = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, p: e + (1 - d) * (p - e), ema, params)
