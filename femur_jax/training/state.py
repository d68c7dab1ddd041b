"""What a training run carries from step to step."""

from dataclasses import dataclass
from typing import Any

import jax
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
    """Moving average of the parameters (of the generator alone in a GAN); models sample with it."""
    optimizer: Any


def update_ema(ema: PyTree, params: PyTree, decay: Array | float) -> PyTree:
    """One step of an exponential moving average: decay * ema + (1 - decay) * params."""
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)
