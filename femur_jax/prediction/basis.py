"""What a classifier's answers on new films rest on: its calibration, and what it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from femur_jax.classifier import task as classifier
from femur_jax.classifier.protocol import Protocol
from femur_jax.classifier.task import ClassifierTask
from femur_jax.data.letterbox import Letterbox, best_shape, letterbox
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.calibration import Platt, calibration, left_out_probabilities
from femur_jax.evaluation.statistics import patient_scores
from femur_jax.models.functional import Params
from femur_jax.prediction.familiarity import Familiar, picture
from femur_jax.progress import Progress

_CHUNK = 8  # batches between two steps of the progress bar


@dataclass(frozen=True)
class Basis:
    """Basis of answers on new films.

    Attributes:
        step: Training step of the checkpoint.
        labels: Classes, the positive one last.
        patch: Side of a tile of the classifier's dataset.
        curve: Curve from logits to probabilities.
        error: Expected calibration error over the validation patients, each left out of the fit.
        chance_error: Mean error if the probabilities were true.
        patients: Number of validation patients.
        share: Share of AFF among them.
        trained_on: Number of training radiographs.
        is_synthetic: Whether all of them are synthetic.
        familiar: Facts about these radiographs.
    """

    step: int
    labels: tuple[str, ...]
    patch: int
    curve: Platt
    error: float
    chance_error: float
    patients: int
    share: float
    trained_on: int
    is_synthetic: bool
    familiar: Familiar

    @classmethod
    def of(cls, task: ClassifierTask, params: Params, step: int, protocol: Protocol) -> "Basis":
        """The basis of a classifier whose protocol has validation patients."""
        validation = protocol.validation
        entries = [validation.dataset.entries[n] for n in validation.radiographs]
        logit = logits(task, params, validation.dataset, validation.radiographs)
        positive = np.array([entry.label == LABELS[1] for entry in entries])
        scores = patient_scores(logit, positive, [entry.patient for entry in entries])
        agreement = calibration(left_out_probabilities(scores), scores.positive)
        training = [(part.dataset, n) for part in protocol.training for n in part.radiographs]
        familiar = Familiar.with_training(
            [dataset.entries[n] for dataset, n in training],
            _pictures(task, training),
            _pictures(task, [(validation.dataset, n) for n in validation.radiographs]),
        )
        return cls(
            step=step,
            labels=LABELS,
            patch=validation.dataset.patch,
            curve=Platt.fitted(scores),
            error=agreement.error,
            chance_error=agreement.chance_error,
            patients=len(scores.score),
            share=float(scores.positive.mean()),
            trained_on=len(training),
            is_synthetic=all(part.dataset.is_synthetic for part in protocol.training),
            familiar=familiar,
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Basis":
        """Restores what `dataclasses.asdict` gave.

        Raises:
            KeyError, TypeError: The fields are those of another version.
        """
        parts = {
            "labels": tuple(fields["labels"]),
            "curve": Platt(**fields["curve"]),
            "familiar": Familiar.from_json(fields["familiar"]),
        }
        return cls(**fields | parts)


def seen(task: ClassifierTask, dataset: RadiographDataset, radiograph: int) -> Letterbox:
    """A radiograph as the network sees it."""
    entry, shapes = dataset.entries[radiograph], task.config.data.shapes
    shape = shapes[best_shape((entry.height, entry.width), shapes, enlarge=True)]
    return letterbox(dataset, radiograph, shape, enlarge=True)


def logits(
    task: ClassifierTask, params: Params, dataset: RadiographDataset, radiographs: Sequence[int]
) -> Float[np.ndarray, " radiograph"]:
    """Logits of AFF, with a progress bar."""
    size = _CHUNK * task.config.train.batch_size
    parts = [radiographs[first : first + size] for first in range(0, len(radiographs), size)]
    bar = Progress(parts, "classify", unit="part")
    of_parts = [classifier.predict(task, params, dataset, part).logit for part in bar]
    return np.concatenate(of_parts).astype(np.float64)


def _pictures(
    task: ClassifierTask, radiographs: Sequence[tuple[RadiographDataset, int]]
) -> Float[np.ndarray, "n dim"]:
    bar = Progress(radiographs, "describe")
    return np.stack([picture(seen(task, dataset, n)) for dataset, n in bar])
