"""The stage that trains a model."""

import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from femur_jax.classifier.task import ClassifierTask
from femur_jax.stages.tasks import make_task
from femur_jax.training import loop


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains the model to its last step, from its newest checkpoint where there is one."""
    task = make_task(config)
    if isinstance(task, ClassifierTask) and not (task.validation and task.validation.radiographs):
        _tell("There are no validation patients of both classes: the last checkpoint is used.")
    loop.train(task, config, workdir)


def _tell(text: str) -> None:
    if jax.process_index() == 0:
        print(f"femur_jax: {text}", file=sys.stderr)
