"""The stage that tests a classifier, or compares a generator's radiographs with real ones."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.classifier.summary import summarise
from femur_jax.classifier.task import Predictions, label_counts, predict
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.features import Extractor, network, pixels, radiograph_features
from femur_jax.evaluation.generators import (
    View,
    evaluate_generator,
    evaluation_table,
    open_synthetic,
)
from femur_jax.evaluation.operating_point import OperatingPoint, operating_point
from femur_jax.evaluation.radiograph_set import of_split
from femur_jax.evaluation.statistics import roc_auc
from femur_jax.files import write_atomically
from femur_jax.stages import cards
from femur_jax.stages.sample import SYNTHETIC
from femur_jax.stages.tasks import classifier_protocol, make_classifier
from femur_jax.training import loop

EVALUATION = "evaluation.json"
_FEATURE_SIDE = 32


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Tests a classifier on real held-out patients, or compares synthetic radiographs with them.

    The result goes to `workdir/evaluation.json` and, in short, to the terminal; a generator's also
    to its cards.
    """
    run_folder.claim(workdir, config, stage="evaluate", free=loop.FREE_FIELDS)
    stage = _test_classifier if config.task == "classifier" else _evaluate_generator
    write_atomically(workdir / EVALUATION, json.dumps(stage(config, workdir)))


def _test_classifier(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    counts = label_counts([RadiographDataset(config.dataset)], config.data.draw.by)
    predictions = held_out_predictions(config, workdir)
    result = summarise(
        predictions.test,
        point_of([predictions]),
        trained_share=predictions.trained_share,
        true_share=float(counts[1] / sum(counts)),
    )
    validation = predictions.validation
    auc = validation and dataclasses.asdict(roc_auc(validation.by_patient()))
    result["validation_auc"] = auc
    print("AUC {value:.3f} [{low:.3f}, {high:.3f}]".format(**result["auc"]))
    return result


def _evaluate_generator(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    synthetic = open_synthetic(workdir / SYNTHETIC)
    evaluation = evaluate_generator(
        RadiographDataset(config.dataset),
        of_split([synthetic], "train"),
        View.of(make_extractor(config.evaluate.weights), published=bool(config.evaluate.weights)),
        by=config.data.draw.by,
    )
    cards.write(config, workdir, synthetic, evaluation)
    print(evaluation_table(evaluation))
    return evaluation.to_json()


def make_extractor(weights: str) -> Extractor:
    """Features of a network from a file of weights; grey values of small pictures where empty."""
    return network(Path(weights)) if weights else pixels(_FEATURE_SIDE)


class HeldOut(NamedTuple):
    """Predictions of a classifier for patients that it was not trained on.

    Attributes:
        validation: Validation radiographs, which chose the checkpoint and set the threshold; None
            where they lack a class.
        test: Radiographs of the test patients.
        trained_share: Share of the positive class among the radiographs drawn in training.
    """

    validation: Predictions | None
    test: Predictions
    trained_share: float


def held_out_predictions(config: ConfigDict, workdir: Path) -> HeldOut:
    """Predictions of the trained classifier in a run directory for validation and test."""
    protocol = classifier_protocol(config)
    task = make_classifier(config, protocol)
    params = loop.restore(task, config, workdir).ema
    validation, test = (
        predict(task, params, part.dataset, part.radiographs) if part.radiographs else None
        for part in (protocol.validation, protocol.test)
    )
    assert test is not None, "a protocol has a test of both classes"
    return HeldOut(validation, test, task.positive_share)


def point_of(classifiers: Sequence[HeldOut]) -> OperatingPoint | None:
    """The operating point of classifiers with test patients of their own."""
    parts = [(c.validation.by_patient(), c.test.by_patient()) for c in classifiers if c.validation]
    return operating_point(parts) if len(parts) == len(classifiers) else None


def view_of_judge(config: ConfigDict, workdir: Path, weights: str) -> View:
    """The view of a trained classifier, the judge, which must not have seen synthetic radiographs.

    Args:
        config: Config of the classifier.
        workdir: Run directory of the classifier.
        weights: File of a network's weights, whose features replace the judge's; may be empty.
    """
    task = make_classifier(config, classifier_protocol(config))
    params = loop.restore(task, config, workdir).ema
    extractor = make_extractor(weights)

    @cache
    def predictions(dataset: RadiographDataset, radiographs: tuple[int, ...]) -> Predictions:
        return predict(task, params, dataset, radiographs)

    def logits(dataset: RadiographDataset, radiographs: Sequence[int]) -> np.ndarray:
        return predictions(dataset, tuple(radiographs)).logit

    def features(dataset: RadiographDataset, radiographs: Sequence[int]) -> np.ndarray:
        if weights:
            return radiograph_features(extractor, dataset, radiographs)
        return predictions(dataset, tuple(radiographs)).features

    name = "the last layer of the classifier trained on the real train split"
    return View(
        extractor.name if weights else name, features, extractor, logits, published=bool(weights)
    )
