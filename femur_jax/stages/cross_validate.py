"""k-fold cross-validation of a classifier: every patient is tested once.

    WORKDIR/fold_1/, fold_2/ ...   a run for each fold
    WORKDIR/cross_validation.json  what they say of all patients; as evaluation.json, and more

Folds that are trained already, perhaps on several machines with `data.draw.by` as 'k/n', are used
as they are.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from scipy.stats import norm

from femur_jax import run_folder
from femur_jax.classifier.summary import summarise
from femur_jax.classifier.task import joined
from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import Interval, PatientScores, delong
from femur_jax.files import write_atomically
from femur_jax.stages.evaluate import held_out_predictions, point_of
from femur_jax.stages.train import train
from femur_jax.training import loop

RESULT = "cross_validation.json"


def cross_validate(config: ConfigDict, workdir: Path) -> None:
    """Trains and tests a classifier for each fold, and ends with the AUC over all.

    Args:
        config: Config of a classifier; `folds` is the number of folds, and `data.draw.by` is set
            for each of them.
        workdir: Run directory, which gets a run directory for each fold.

    Raises:
        UserError: The config is not one of a classifier, or names another dataset to test on.
    """
    if config.task != "classifier":
        raise UserError("Only a classifier is cross-validated; use configs/classifier.py.")
    if config.test_dataset or config.data.draw.by != "patient":
        raise UserError(
            "cross_validate tests each patient of config.dataset once; leave config.test_dataset "
            "and config.data.draw.by as they are."
        )
    run_folder.claim(workdir, config, stage="cross_validate", free=loop.FREE_FIELDS)
    folds = []
    for k in range(1, config.folds + 1):
        fold = config.copy_and_resolve_references()
        fold.data.draw.by = f"{k}/{config.folds}"
        folder = workdir / f"fold_{k}"
        train(fold, folder)
        folds.append(held_out_predictions(fold, folder))
    every = joined([fold.test for fold in folds])
    tested = every.by_patient().positive
    patients = [fold.test.by_patient() for fold in folds]
    auc = cross_validated_auc(patients)
    result = summarise(
        every,
        point_of(folds),
        trained_share=float(np.mean([fold.trained_share for fold in folds])),
        true_share=float(np.mean(tested)),
    ) | {
        "cross_validated_auc": dataclasses.asdict(auc),
        "folds": [cross_validated_auc([scores]).value for scores in patients],
    }
    write_atomically(workdir / RESULT, json.dumps(result))
    print(f"AUC over {len(folds)} folds {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]")


def cross_validated_auc(folds: Sequence[PatientScores], confidence: float = 0.95) -> Interval:
    """Mean of the folds' areas under the ROC curve: patients of one fold alone are compared.

    The folds' classifiers need not agree on a scale, as in one curve of all patients they must. The
    interval is over patients, from the variance within each fold (DeLong et al. 1988), as LeDell,
    Petersen and van der Laan (2015, Electron. J. Statist. 9:1583) have it from influence curves.
    """
    estimates = [delong(fold.score[None], fold.positive) for fold in folds]
    value = float(np.mean([areas[0] for areas, _ in estimates]))
    error = float(np.sqrt(sum(covariance[0, 0] for _, covariance in estimates))) / len(folds)
    half = float(norm.isf((1 - confidence) / 2)) * error
    return Interval(value, value - half, value + half)
