"""Patient-level classifier statistics with bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, rankdata
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
    """One score per patient, with both classes present, which `patient_scores` checks.

    Attributes:
        score: Probabilities or logits; the higher, the more likely an atypical fracture.
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

    A patient with fractures of both classes counts once in each. Patients are in the order in which
    they first occur, so that nothing depends on their names: those change with their key.

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
    number = {name: n for n, name in enumerate(dict.fromkeys(patients))}
    patient = np.array([number[name] for name in patients])
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
    classes separate perfectly the interval shrinks to [1, 1], which is too narrow.
    """
    return auc_contrast(
        [patients], [1.0], seed=seed, resamples=resamples, confidence=confidence
    ).bootstrap


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of classifiers' areas under the curve, on the same patients.

    Attributes:
        bootstrap: The sum, with a percentile interval from resampled patients.
        delong: The sum, with DeLong's normal interval.
        p_value: Two-sided p-value of a sum of zero, by DeLong; for weights that sum to zero.
    """

    bootstrap: Interval
    delong: Interval
    p_value: float


def auc_contrast(
    classifiers: Sequence[PatientScores],
    weights: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Contrast:
    """Compares or averages classifiers that were tested on the same patients.

    The weights (1, -1) give the difference of two classifiers, (1/k, ..., 1/k) the mean over the
    k seeds of one. A resample draws the same patients for all classifiers. The intervals are over
    new patients; the effect of training again is another question, which `seed_spread` answers.

    Raises:
        UserError: The classifiers were not tested on the same patients.
    """
    positive = classifiers[0].positive
    if any(not np.array_equal(c.positive, positive) for c in classifiers):
        raise UserError(
            "Classifiers can be compared only on the same patients, and these were tested on "
            "different ones; evaluate all of them on one split of one dataset."
        )
    score = np.stack([c.score for c in classifiers])
    weight = np.array(weights, float)
    ahead = score[:, positive, None] - score[:, None, ~positive]
    wins = np.tensordot(weight, 0.5 * (1 + np.sign(ahead)), axes=1)

    def area(
        w_positive: Int[np.ndarray, "resample positive"],
        w_negative: Int[np.ndarray, "resample negative"],
    ) -> Float[np.ndarray, " resample"]:
        return ((w_positive @ wins) * w_negative).sum(axis=1) / wins.size

    areas, covariance = delong(score, positive)
    value = float(weight @ areas)
    error = float(np.sqrt(max(weight @ covariance @ weight, 0.0)))
    half = error * float(norm.isf((1 - confidence) / 2))
    p_value = 2 * float(norm.sf(abs(value) / error)) if error else float(value == 0)
    return Contrast(
        bootstrap=_bootstrap(value, area, classifiers[0], seed, resamples, confidence),
        delong=Interval(value, value - half, value + half),
        p_value=p_value,
    )


def delong(
    score: Float[np.ndarray, "classifier patient"], positive: Bool[np.ndarray, " patient"]
) -> tuple[Float[np.ndarray, " classifier"], Float[np.ndarray, "classifier classifier"]]:
    """Areas under the ROC curves and their covariance (DeLong et al. 1988).

    They are computed from midranks in O(n log n) (Sun and Xu 2014, equations 5 to 8). A class of
    one patient leaves the covariance undefined; its term is then left out, which understates it.
    """
    x, y = score[:, positive], score[:, ~positive]
    m, n = x.shape[1], y.shape[1]
    rank = rankdata(np.concatenate([x, y], axis=1), axis=1)
    v10 = (rank[:, :m] - rankdata(x, axis=1)) / n  # share of negatives below each positive
    v01 = 1 - (rank[:, m:] - rankdata(y, axis=1)) / m
    terms = [np.cov(v, ddof=1) / v.shape[1] for v in (v10, v01) if v.shape[1] > 1]
    k = len(score)
    return v10.mean(axis=1), sum((term.reshape(k, k) for term in terms), np.zeros((k, k)))


@dataclass(frozen=True)
class SeedSpread:
    """One classifier trained with several seeds.

    Attributes:
        mean: Mean over the seeds, with its interval over new patients.
        auc: Area under the curve of each seed.
        deviation: Standard deviation of `auc`, the effect of training again; 0 for one seed.
    """

    mean: Interval
    auc: list[float]
    deviation: float


def seed_spread(seeds: Sequence[PatientScores], *, seed: int = 0) -> SeedSpread:
    """The spread over repeated trainings, and the mean with its interval over new patients.

    Raises:
        UserError: The seeds were not tested on the same patients.
    """
    mean = auc_contrast(seeds, [1 / len(seeds)] * len(seeds), seed=seed).bootstrap
    auc = [float(roc_auc_score(s.positive, s.score)) for s in seeds]
    return SeedSpread(mean, auc, float(np.std(auc, ddof=1)) if len(auc) > 1 else 0.0)


MIN_PATIENTS = 5
"""Fewest patients of each class for which a group has an area under the curve."""


@dataclass(frozen=True)
class GroupRow:
    """Performance of a classifier in a group of the test set.

    Attributes:
        auc: Area under the curve; None where a class has fewer than MIN_PATIENTS patients.
    """

    group: str
    radiographs: int
    positive_patients: int
    negative_patients: int
    auc: Interval | None


def auc_by_group(
    score: Float[np.ndarray, " radiograph"],
    positive: Bool[np.ndarray, " radiograph"],
    patients: Sequence[str],
    groups: Sequence[str],
) -> list[GroupRow]:
    """One row for each group of radiographs, such as a hospital or a range of sizes.

    Groups are in the order in which they first occur. A patient whose radiographs fall into several
    groups counts in each, with those radiographs.
    """
    group_of, patient_of = np.asarray(groups), np.asarray(patients)
    rows = []
    for group in dict.fromkeys(groups):
        member = group_of == group
        counts = [len(set(patient_of[member & of_class])) for of_class in (positive, ~positive)]
        auc = None
        if min(counts) >= MIN_PATIENTS:
            scores = patient_scores(score[member], positive[member], patient_of[member].tolist())
            auc = roc_auc(scores)
        rows.append(GroupRow(group, int(member.sum()), counts[0], counts[1], auc))
    return rows


def sensitivity_at_specificity(
    patients: PatientScores,
    specificity: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Highest sensitivity of any threshold that keeps at least the given specificity.

    The empirical ROC curve is not interpolated. The threshold is chosen in each resample, so the
    interval includes the uncertainty of the threshold.
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


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts the p values of a family of tests (Holm, Scand. J. Stat. 6, 1979).

    Args:
        p: P values of the tests, 0 to 1, in any order.

    Returns:
        Adjusted p values in the same order. The probability that any true null hypothesis gets a
        value below alpha is at most alpha.
    """
    order = np.argsort(p)
    steps = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()
