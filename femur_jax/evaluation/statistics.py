"""Patient-level classifier statistics with bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score

from femur_jax.errors import UserError


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PatientScores:
    """One score per patient; with both classes present, as `patient_scores` makes sure.

    Attributes:
        score: The higher, the more likely an atypical fracture; probabilities or logits.
        positive: True where the patient has an atypical fracture.
    """

    score: Float[np.ndarray, " patient"]
    positive: Bool[np.ndarray, " patient"]


def patient_scores(
    score: Float[np.ndarray, " radiograph"],
    positive: Bool[np.ndarray, " radiograph"],
    patients: Sequence[str],
) -> PatientScores:
    """Averages the scores of each patient's radiographs.

    A patient with fractures of both classes counts once in each.

    Args:
        score: Predicted probability or logit of the positive class.
        positive: True for an atypical fracture.
        patients: Pseudonym of each radiograph's patient.

    Raises:
        UserError: A class has no patient, or a score is not finite.
    """
    if not np.isfinite(score).all():
        raise UserError(
            f"{np.sum(~np.isfinite(score))} of {score.size} classifier scores are not finite: "
            "the classifier diverged; train it again with a lower learning rate."
        )
    _, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    case, index = np.unique(2 * patient + positive, return_inverse=True)
    case_positive = case % 2 == 1
    n_positive = int(case_positive.sum())
    if n_positive in (0, case.size):
        raise UserError(
            f"The test set holds {n_positive} patients with and {case.size - n_positive} without "
            "an atypical fracture, and a ROC curve needs both: use a larger test split."
        )
    return PatientScores(np.bincount(index, weights=score) / np.bincount(index), case_positive)


def roc_auc(
    patients: PatientScores, *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95
) -> Interval:
    """Area under the patient-level ROC curve with a bootstrap percentile interval.

    Patients are resampled within their class (Carpenter and Bithell 2000, stratified). Each
    resample's area is the Mann-Whitney statistic with the draw counts as weights. Where the
    classes separate perfectly the interval shrinks to [1, 1], which overstates what is known.
    """
    positive = patients.score[patients.positive]
    negative = patients.score[~patients.positive]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)

    def area(
        w_positive: Int[np.ndarray, "resample positive"],
        w_negative: Int[np.ndarray, "resample negative"],
    ) -> Float[np.ndarray, " resample"]:
        return ((w_positive @ wins) * w_negative).sum(axis=1) / wins.size

    value = float(roc_auc_score(patients.positive, patients.score))
    return _bootstrap(value, area, patients, seed, resamples, confidence)


def sensitivity_at_specificity(
    patients: PatientScores,
    specificity: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Highest sensitivity of any threshold that keeps at least the given specificity.

    The empirical ROC curve is not interpolated. In each resample the threshold is chosen anew,
    so the interval includes the uncertainty of the threshold.
    """
    thresholds = np.append(np.unique(patients.score), np.inf)
    called = (patients.score[:, None] >= thresholds).astype(float)
    positive, negative = called[patients.positive], called[~patients.positive]

    def sensitivity(
        w_positive: Int[np.ndarray, "resample positive"],
        w_negative: Int[np.ndarray, "resample negative"],
    ) -> Float[np.ndarray, " resample"]:
        true_rate = w_positive @ positive / len(positive)
        false_rate = w_negative @ negative / len(negative)
        allowed = false_rate <= 1 - specificity + 1e-9  # 1 - 0.9 is a little under 1/10
        return np.where(allowed, true_rate, 0.0).max(axis=1)

    ones = np.ones((1, len(positive)), int), np.ones((1, len(negative)), int)
    value = float(sensitivity(*ones)[0])
    return _bootstrap(value, sensitivity, patients, seed, resamples, confidence)


def _bootstrap(
    value: float,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    patients: PatientScores,
    seed: int,
    resamples: int,
    confidence: float,
) -> Interval:
    """Percentile interval of statistic(draw counts of positives, draw counts of negatives)."""
    rng = np.random.default_rng(seed)
    n_positive = int(patients.positive.sum())
    counts = [
        rng.multinomial(n, np.full(n, 1 / n), size=resamples)
        for n in (n_positive, patients.positive.size - n_positive)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(*counts), [tail, 1 - tail])
    return Interval(value, float(low), float(high))
