"""The stage that trains a model."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from femur_jax.classifier.validation import Validation
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
    start: dict[str, Any] = {}
    if config.task == "classifier":
        protocol = classifier_protocol(config)
        task = make_classifier(config, protocol)
        evaluators = [Validation(task, protocol.validation)]
        if not protocol.validation.radiographs:
            evaluators = []
            _report("No validation patients of both classes: the last checkpoint is used.")
    else:
        task = make_generator(config)
        evaluators = make_evaluators(task, config)
        if config.pretrained:
            origins_before(config)  # refuses what cannot be a fair start
            start["prepare"] = partial(loop.start_from, Path(config.pretrained))
    loop.train(task, config, workdir, evaluators, **start)


def _report(text: str) -> None:
    if jax.process_index() == 0:
        print(f"femur_jax: {text}", file=sys.stderr)
