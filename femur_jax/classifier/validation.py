"""How good a classifier is on its validation patients while it trains."""

import numpy as np
from sklearn.metrics import roc_auc_score

from femur_jax.classifier.protocol import Subset
from femur_jax.classifier.task import ClassifierTask, predict
from femur_jax.training.state import TrainState


class Validation:
    """Loss and AUC over the validation patients; the loss chooses the best checkpoint.

    Attributes:
        name: The prefix of the numbers in the logs.
        every: The number of training steps from one validation to the next.
    """

    name = "validation"

    def __init__(self, task: ClassifierTask, subset: Subset):
        """Prepares the validation of a task after each checkpoint.

        Args:
            task: The trained classifier.
            subset: Validation radiographs of both classes.
        """
        self.every = task.config.train.checkpoint_every
        self._task, self._subset = task, subset

    def run(self, state: TrainState) -> dict[str, float]:
        """Measures the averaged parameters.

        The loss is that of training for the patients' mean logits, with the classes weighted as
        they are drawn in training.
        """
        predictions = predict(self._task, state.ema, self._subset.dataset, self._subset.radiographs)
        patients = predictions.by_patient()
        losses = np.logaddexp(0, np.where(patients.positive, -1, 1) * patients.score)
        share = self._task.positive_share
        return {
            "loss": float(
                share * losses[patients.positive].mean()
                + (1 - share) * losses[~patients.positive].mean()
            ),
            "auc": float(roc_auc_score(patients.positive, patients.score)),
        }
