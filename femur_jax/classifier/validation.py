"""How good a classifier is on its validation patients while it trains."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

from femur_jax.classifier.protocol import Subset
from femur_jax.classifier.task import ClassifierTask, joined, predict
from femur_jax.training.state import TrainState


class Validation:
    """Loss and AUC over the validation patients; the loss chooses the best checkpoint.

    Attributes:
        name: The prefix of the numbers in the logs.
        every: The number of training steps from one validation to the next.
    """

    name = "validation"

    def __init__(self, task: ClassifierTask, subsets: Sequence[Subset]):
        """Prepares the validation of a task after each checkpoint.

        Args:
            task: The trained classifier.
            subsets: Validation radiographs, of both classes together.
        """
        self.every = task.config.train.checkpoint_every
        self._task, self._subsets = task, subsets

    def run(self, state: TrainState) -> dict[str, float]:
        """Measures the averaged parameters.

        The loss is that of training for the patients' mean logits, with the classes weighted as
        they are drawn in training.
        """
        parts = [predict(self._task, state.ema, s.dataset, s.radiographs) for s in self._subsets]
        patients = joined(parts).by_patient()
        losses = np.logaddexp(0, np.where(patients.positive, -1, 1) * patients.score)
        share = self._task.positive_share
        return {
            "loss": float(
                share * losses[patients.positive].mean()
                + (1 - share) * losses[~patients.positive].mean()
            ),
            "auc": float(roc_auc_score(patients.positive, patients.score)),
        }


def left_out(task: ClassifierTask) -> list[Subset]:
    """Training radiographs of each dataset that `config.data.per_label` leaves out."""
    taken = {(id(dataset), n) for pool in task.pools for dataset, n in pool.radiographs}
    by = task.config.data.draw.by
    rest = [
        Subset(d, [n for n in d.split("train", by) if (id(d), n) not in taken])
        for d in task.datasets
    ]
    return [subset for subset in rest if subset.radiographs]
