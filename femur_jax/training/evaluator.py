"""What measures a model while it trains."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from femur_jax.training.state import TrainState


@runtime_checkable
class Evaluator(Protocol):
    """A measurement of the model that the training loop repeats.

    Where the numbers include `checkpoint.BEST`, they choose the best checkpoint and stop the
    training early; at most one evaluator of a run reports it.

    Attributes:
        name: The prefix of the numbers in the logs.
        every: The number of steps from one evaluation to the next; the last step is evaluated too.
    """

    name: str
    every: int

    def run(self, state: TrainState) -> Mapping[str, float]:
        """Measures the model of a state.

        Where a run has several processes, only the first one calls this, with the whole moving
        averages in `state.ema`; the parameters stay divided.
        """
        ...
