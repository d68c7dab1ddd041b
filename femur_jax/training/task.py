"""What a model family gives to the training loop, and a generator to the stages that sample."""

from collections.abc import Container, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Key, UInt16
from ml_collections import ConfigDict

from femur_jax.data.loader import Stream
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request
from femur_jax.models.functional import Params
from femur_jax.parallel.rules import Rules
from femur_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""] | Float[Array, "2"]]
"""Numbers by name: one for the step, or a sum and a count where a step may have nothing to add."""


@runtime_checkable
class Task(Protocol):
    """A model, its training data and its update.

    Tasks that compare equal have the same `step`, which is then compiled once for all of them.

    Attributes:
        name: Name of the model family.
        rules: Shardings of the state's arrays, by path.
    """

    name: str
    rules: Rules

    @property
    def sample_bytes(self) -> int:
        """Memory of a device for each sample of a microbatch; 0 where unknown."""
        ...

    def init(self, key: Key[Array, ""]) -> TrainState:
        """Returns the state before the first step."""
        ...

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Performs one update; a pure function, which the loop compiles."""
        ...

    def streams(self) -> list[Stream]:
        """Returns the endless streams of training samples."""
        ...

    def data_digest(self) -> str:
        """Returns a digest of all radiographs in the training split, and how they are drawn."""
        ...

    def learning_rate(self, step: int, steps: int) -> float:
        """Returns the learning rate after some steps, in a run of `steps` in total."""
        ...

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns pictures for TensorBoard in [0, 1], shape (n, height, width, 1)."""
        ...


@runtime_checkable
class Generator(Task, Protocol):
    """A task whose model makes radiographs.

    Attributes:
        config: The config of the run.
        dataset: The real radiographs that the model is trained on.
    """

    config: ConfigDict
    dataset: RadiographDataset

    @property
    def square(self) -> int | None:
        """Side of the square that radiographs are fitted into; None where they keep their size."""
        ...

    def generate(
        self,
        params: Params,
        requests: Mapping[int, Request],
        *,
        sample: ConfigDict,
        finished: Container[int] = (),
        progress: bool = False,
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Generates radiographs and gives each with its number, as they are finished.

        A radiograph depends on the parameters, its request, its number and the settings alone, so
        several processes may share the requests.

        Args:
            params: Parameters of one moving average.
            requests: The radiographs to generate, by number.
            sample: The config's `sample`, with the seed.
            finished: Numbers of the requests that need not be generated; some may be given again.
            progress: Whether to show a progress bar.
        """
        ...
