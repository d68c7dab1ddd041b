"""Measurements of a generator while it trains: KID against real radiographs, and copies of them."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import wanted_labels
from femur_jax.errors import UserError
from femur_jax.evaluation.features import Extractor, radiograph_features
from femur_jax.evaluation.kernels import MIN_SAMPLES, kernel_distance
from femur_jax.evaluation.memorization import CopySearch, Scope
from femur_jax.evaluation.onset import Point
from femur_jax.evaluation.radiograph_set import of_split
from femur_jax.stages.evaluate import make_extractor
from femur_jax.stages.sample import write_samples
from femur_jax.training.evaluator import Evaluator
from femur_jax.training.state import TrainState
from femur_jax.training.task import Generator


def make_evaluators(task: Generator, config: ConfigDict) -> list[Evaluator]:
    """Returns the evaluators that `config.evaluate` turns on.

    Raises:
        UserError: The weights for features cannot be used, or there are too few radiographs.
    """
    kinds = [(config.evaluate.kid_every, Kid), (config.evaluate.copies_every, Copies)]
    chosen = [(every, kind) for every, kind in kinds if every]
    if not chosen:
        return []
    extractor = make_extractor(config.evaluate.weights)
    return [kind(task, config, extractor, every) for every, kind in chosen]


class Kid:
    """KID of a few samples of each class against the validation radiographs of that class.

    Attributes:
        name: The prefix of the numbers in the logs.
        every: The number of training steps from one measurement to the next.
    """

    name = "kid"

    def __init__(self, task: Generator, config: ConfigDict, extractor: Extractor, every: int):
        """Computes the features of the validation radiographs.

        Raises:
            UserError: A class has too few validation radiographs, or too few would be generated.
        """
        self.every = every
        self._task, self._config, self._extractor = task, config, extractor
        labels = wanted_labels(config.sample.labels, config.data.draw.label_shares)
        validation = task.dataset.split("validation", config.data.draw.by)
        self._real = {label: self._features(task.dataset, validation, label) for label in labels}
        for label, features in self._real.items():
            if min(len(features), config.evaluate.per_label) < MIN_SAMPLES:
                raise UserError(
                    f"config.evaluate.kid_every needs {MIN_SAMPLES} validation radiographs and "
                    f"{MIN_SAMPLES} samples of each class, but there are {len(features)} and "
                    f"{config.evaluate.per_label} for {label}; set it to 0, or set "
                    "config.evaluate.per_label to more."
                )

    def run(self, state: TrainState) -> dict[str, float]:
        """Returns the KID of each class."""
        with tempfile.TemporaryDirectory() as name:
            synthetic = few_samples(self._task, self._config, state, Path(name) / "samples")
            everything = range(len(synthetic.entries))
            return {
                label: kernel_distance(
                    real, self._features(synthetic, everything, label), permutations=0
                ).value
                for label, real in self._real.items()
            }

    def _features(
        self, dataset: RadiographDataset, radiographs: Sequence[int], label: str
    ) -> Float32[np.ndarray, "n dim"]:
        """The features of the radiographs of a class."""
        members = [n for n in radiographs if dataset.entries[n].label == label]
        if not members:
            return np.empty((0, 0), np.float32)
        return radiograph_features(self._extractor, dataset, members)


class Copies:
    """The search for copies of training radiographs among a few samples.

    Attributes:
        name: The prefix of the numbers in the logs.
        every: The number of training steps from one search to the next.
    """

    name = "copies"

    def __init__(self, task: Generator, config: ConfigDict, extractor: Extractor, every: int):
        """Prepares the search."""
        self.every = every
        self._task, self._config, self._extractor = task, config, extractor
        self._search: CopySearch | None = None

    def run(self, state: TrainState) -> dict[str, float]:
        """Returns the numbers of `Point`."""
        with tempfile.TemporaryDirectory() as name:
            synthetic = few_samples(self._task, self._config, state, Path(name) / "samples")
            point = self.audit(synthetic, int(state.step))
        return {name: float(value) for name, value in asdict(point).items() if name != "step"}

    def audit(self, synthetic: RadiographDataset, step: int) -> Point:
        """Audits samples of the model after a training step."""
        samples = of_split([synthetic], "train")
        scope = Scope.of(samples)
        if self._search is None or self._search.scope != scope:
            by = self._config.data.draw.by
            self._search = CopySearch(self._task.dataset, scope, self._extractor, by=by)
        return Point.of(step, self._search.copies(samples))


def few_samples(
    task: Generator, config: ConfigDict, state: TrainState, folder: Path
) -> RadiographDataset:
    """Writes `config.evaluate.per_label` samples of each class by a state's moving average."""
    ema = state.ema
    if "ema" in config.sample:  # averages by width
        ema = ema.get(str(config.sample.ema), next(iter(ema.values())))
    return write_samples(task, config, ema, int(state.step), folder)
