"""The stage that trains a model."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from femur_jax.classifier.protocol import Protocol, Subset
from femur_jax.classifier.task import ClassifierTask
from femur_jax.classifier.validation import Validation, left_out
from femur_jax.data.radiograph import LABELS
from femur_jax.errors import UserError
from femur_jax.example import EXAMPLE, shipped
from femur_jax.stages.evaluators import make_evaluators
from femur_jax.stages.tasks import (
    classifier_protocol,
    make_classifier,
    make_generator,
    origins_before,
)
from femur_jax.training import loop
from femur_jax.training.evaluator import Evaluator


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains the model to its last step, from its newest checkpoint where there is one."""
    evaluators: Sequence[Evaluator]
    prepare = None
    if config.task == "classifier":
        protocol = classifier_protocol(config)
        task = make_classifier(config, protocol)
        subsets = _validation(task, protocol)
        evaluators = [Validation(task, subsets)] if subsets else []
    else:
        task = make_generator(config)
        evaluators = make_evaluators(task, config)
        if config.pretrained:
            origins_before(config)  # refuses what cannot be a fair start
            prepare = (
                shipped.start_from
                if config.pretrained == EXAMPLE
                else partial(loop.start_from, Path(config.pretrained))
            )
    loop.train(task, config, workdir, evaluators, prepare)


def _validation(task: ClassifierTask, protocol: Protocol) -> list[Subset]:
    """The radiographs that choose a classifier's checkpoint; none where a class is missing.

    Raises:
        UserError: There is no such choice, or a class is missing among those that are left out.
    """
    match task.config.data.validated_on:
        case "real":
            if protocol.validation.radiographs:
                return [protocol.validation]
            _report("No validation patients of both classes: the last checkpoint is used.")
            return []
        case "rest":
            rest = left_out(task)
            if len(set[str]().union(*(subset.labels for subset in rest))) < len(LABELS):
                raise UserError(
                    "config.data.validated_on is 'rest', but config.data.per_label leaves out no "
                    "radiograph of a class; give smaller numbers."
                )
            return rest
        case other:
            raise UserError(f"config.data.validated_on is {other!r}; write real or rest.")


def _report(text: str) -> None:
    if jax.process_index() == 0:
        print(f"femur_jax: {text}", file=sys.stderr)
