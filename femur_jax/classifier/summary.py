"""The report on one classifier's predictions."""

import dataclasses
from typing import Any

import numpy as np

from femur_jax.classifier.groups import UNKNOWN
from femur_jax.classifier.task import Predictions
from femur_jax.evaluation.calibration import calibration, probability
from femur_jax.evaluation.operating_point import OperatingPoint
from femur_jax.evaluation.statistics import (
    auc_by_group,
    auc_over_hospitals,
    patient_scores,
    roc_auc,
)

PUBLISHED = {
    "Schilcher 2024, images": {"auc": 0.966, "sensitivity": 0.796},
    "Schilcher 2024, images and register": {"auc": 0.987, "sensitivity": 0.903},
}
"""Results of Schilcher, Nilsson, Andlid and Eklund 2024: per patient, 159 with AFF and 914 with NFF
from 72 hospitals, also with seven variables of registers. They are marks for real data and not a
comparison."""


def summarise(
    predictions: Predictions,
    operating: OperatingPoint | None,
    *,
    trained_share: float,
    true_share: float,
) -> dict[str, Any]:
    """Returns numbers, intervals and tables as JSON holds them.

    Args:
        predictions: Predictions for the radiographs of the test.
        operating: Sensitivity and specificity of the test at the threshold of the validation
            patients; None without validation patients of both classes.
        trained_share: The share of the positive class among the radiographs drawn in training.
        true_share: The share of positive patients where the classifier is used.

    Raises:
        UserError: A class has no patient, or a score is not finite.
    """
    p = predictions
    logit = np.asarray(p.logit, np.float64)
    patients = patient_scores(logit, p.positive, p.patients)
    predicted = probability(patients.score, trained_share=trained_share, true_share=true_share)
    by = {
        name: auc_by_group(logit, p.positive, p.patients, groups)
        for name, groups in p.groups.items()
    }
    for name, rows in by.items():
        if name != "hospital":  # names would give their order away
            rows.sort(key=lambda row: (row.group == UNKNOWN, row.group))
    over_hospitals = auc_over_hospitals(logit, p.positive, p.patients, p.hospitals)
    return {
        "auc": dataclasses.asdict(roc_auc(patients)),
        "auc_over_hospitals": over_hospitals and dataclasses.asdict(over_hospitals),
        "operating_point": operating and dataclasses.asdict(operating),
        "calibration": dataclasses.asdict(calibration(predicted, patients.positive)),
        "patients": len(patients.score),
        "by": {name: [dataclasses.asdict(row) for row in rows] for name, rows in by.items()},
        "published": PUBLISHED,
        "logit": logit.tolist(),
        "positive": p.positive.tolist(),
        "patient": p.patients,
    }
