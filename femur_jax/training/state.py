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
    """The number of updates so far, an int32 scalar."""
    params: PyTree
    ema: PyTree
    """The moving average of the parameters (in a GAN, of the generator alone), or several of them
    by width (see `training.ema`); models sample with it."""
    optimizer: Any


def init_state(params: PyTree, ema: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state of a single network before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, ema=ema, optimizer=optimizer.init(params)
    )


def update_state(
    state: TrainState,
    gradient: PyTree,
    optimizer: optax.GradientTransformation,
    update_ema: Callable[[PyTree, PyTree, Array], PyTree],
) -> TrainState:
    """Returns the state of a single network after one more update.

    Args:
        state: The state before the update.
        gradient: The gradient of the loss with respect to the parameters.
        optimizer: The optimizer whose state `state` holds.
        update_ema: A function from the previous moving average, the new parameters and the number
            of previous steps to the new moving average.
    """
    with jax.named_scope("optimizer"):  # a name for profiles and for femur plan_gpu
        update, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    return TrainState(
        step=state.step + 1,
        params=params,
        ema=update_ema(state.ema, params, state.step),
        optimizer=optimizer_state,
    )


def update_ema(ema: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
    """Performs one step of an exponential moving average: d * ema + (1 - d) * params.

    d is `decay`, but at most (1 + step) / (10 + step), so that the average of a young run forgets
    its first parameters.
    """
    d = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, p: e + (1 - d) * (p - e), ema, params)
