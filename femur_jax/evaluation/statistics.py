"""Patient-level classifier statistics with their intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import root_scalar
from scipy.special import stdtrit
from scipy.stats import rankdata

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
    index, first = _case_of_each(positive, patients)
    case_positive = positive[first]
    n_positive = int(case_positive.sum())
    if n_positive in (0, case_positive.size):
        raise UserError(
            f"The test set holds {n_positive} patients with and "
            f"{case_positive.size - n_positive} without an atypical fracture, and a ROC "
            "curve needs both: use a larger test split."
        )
    return PatientScores(np.bincount(index, weights=score) / np.bincount(index), case_positive)


def _case_of_each(
    positive: Bool[np.ndarray, " radiograph"], patients: Sequence[str]
) -> tuple[Int[np.ndarray, " radiograph"], Int[np.ndarray, " case"]]:
    """The case, a patient with a class, of each radiograph, and the first radiograph of each."""
    number = {name: n for n, name in enumerate(dict.fromkeys(patients))}
    patient = np.array([number[name] for name in patients])
    _, first, index = np.unique(2 * patient + positive, return_index=True, return_inverse=True)
    return index, first


def roc_auc(patients: PatientScores, *, confidence: float = 0.95) -> Interval:
    """Area under the patient-level ROC curve, with its interval over new patients.

    The interval is that of `area_interval` for one training.
    """
    value = float(area(patients.score, patients.positive))
    return area_interval([value], patients.positive, confidence=confidence)


def area(
    score: Float[np.ndarray, "*set patient"], positive: Bool[np.ndarray, " patient"]
) -> Float[np.ndarray, " *set"]:
    """Mann and Whitney's area under the ROC curve, in which ties count as half."""
    m = int(positive.sum())
    ranks = rankdata(score, axis=-1)[..., positive].sum(axis=-1)
    return np.asarray((ranks - m * (m + 1) / 2) / (m * (positive.size - m)))


def area_interval(
    areas: Sequence[float], positive: Bool[np.ndarray, " patient"], *, confidence: float = 0.95
) -> Interval:
    """Mean of the areas of one or several trainings, with an interval over patients and trainings.

    The ends are the areas A at which |A - mean| = t sqrt(V(A) + s^2 / k). V is Hanley and McNeil's
    variance as in method 5 of Newcombe 2006 (Statistics in Medicine 25:559), which leaves an
    interval to an area of 1, where the variance of the scores is zero. s^2 is the variance of the
    areas of k trainings, and t has Satterthwaite's degrees of freedom; with one training the method
    is Newcombe's, and the interval does not hold for another training.

    Args:
        areas: Area of each training, on the same patients.
        positive: True for each patient with an atypical fracture.
        confidence: Probability that the interval holds the true mean area.
    """
    k, m = len(areas), int(positive.sum())
    n = positive.size - m
    value = float(np.mean(areas))
    trainings = float(np.var(areas, ddof=1)) / k if k > 1 else 0.0

    def variance(a: float) -> float:
        return area_variance(a, m, n) + trainings

    def freedom(a: float) -> float:
        return (k - 1) * (variance(a) / trainings) ** 2 if trainings else np.inf

    return _score_interval(value, variance, freedom, confidence)


def _score_interval(
    value: float,
    variance: Callable[[float], float],
    freedom: Callable[[float], float],
    confidence: float,
) -> Interval:
    """The areas A from which the value differs by no more than t standard errors, as they are at A.

    Args:
        value: Area estimated from the scores.
        variance: Variance of the estimate where the true area is A.
        freedom: Degrees of freedom of that variance.
        confidence: Confidence of the interval.
    """

    def excess(a: float) -> float:
        """Negative within the interval."""
        quantile = float(stdtrit(freedom(a), (1 + confidence) / 2))
        return abs(a - value) - quantile * np.sqrt(variance(a))

    ends = [
        end
        if excess(end) <= 0
        else float(root_scalar(excess, bracket=(value + 1e-9 * (end - value), end)).root)
        for end in (0.0, 1.0)
    ]
    return Interval(value, *ends)


def area_variance(area: float, m: int, n: int) -> float:
    """Variance of an area that is known, of m positive and n negative patients.

    It is Hanley and McNeil's, with the mean of both numbers in place of each (Newcombe 2006).
    """
    shape = 1 + ((m + n) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * shape / (m * n)


def delong(
    score: Float[np.ndarray, "classifier patient"], positive: Bool[np.ndarray, " patient"]
) -> tuple[Float[np.ndarray, " classifier"], Float[np.ndarray, "classifier classifier"]]:
    """Areas under the ROC curves and their covariance (DeLong et al. 1988).

    Raises:
        UserError: A class has fewer than two patients.
    """
    areas, of_positives, of_negatives = delong_parts(score, positive)
    return areas, of_positives + of_negatives


def delong_parts(
    score: Float[np.ndarray, "classifier patient"], positive: Bool[np.ndarray, " patient"]
) -> tuple[
    Float[np.ndarray, " classifier"],
    Float[np.ndarray, "classifier classifier"],
    Float[np.ndarray, "classifier classifier"],
]:
    """Areas under the ROC curves, and the parts of their covariance due to each class.

    They are computed from midranks in O(n log n) (Sun and Xu 2014, equations 5 to 8).

    Returns:
        Areas; the covariance due to positive patients, and that due to negative ones.

    Raises:
        UserError: A class has fewer than two patients.
    """
    areas, v10, v01 = placements(score, positive)
    if min(v10.shape[1], v01.shape[1]) < 2:
        raise UserError(
            f"The test set holds {v10.shape[1]} patients with and {v01.shape[1]} without an "
            "atypical fracture, and the variance of an AUC needs two of each: use a larger test "
            "split."
        )
    k = len(score)
    parts = [(np.cov(v, ddof=1) / v.shape[1]).reshape(k, k) for v in (v10, v01)]
    return areas, parts[0], parts[1]


def placements(
    score: Float[np.ndarray, "classifier patient"], positive: Bool[np.ndarray, " patient"]
) -> tuple[
    Float[np.ndarray, " classifier"],
    Float[np.ndarray, "classifier positive"],
    Float[np.ndarray, "classifier negative"],
]:
    """Areas, the share of negatives below each positive, and of positives above each negative."""
    x, y = score[:, positive], score[:, ~positive]
    m, n = x.shape[1], y.shape[1]
    rank = rankdata(np.concatenate([x, y], axis=1), axis=1)
    v10 = (rank[:, :m] - rankdata(x, axis=1)) / n
    v01 = 1 - (rank[:, m:] - rankdata(y, axis=1)) / m
    return v10.mean(axis=1), v10, v01


Trainings = Sequence[Sequence[PatientScores]]
"""Classifiers that differ by their seeds, by the set of radiographs that they are trained on: one
set for each training of a generator, or a single one of real radiographs."""


def independent_areas(trainings: Trainings) -> list[float]:
    """Areas under the curve that are independent, but for the patients.

    They are the mean area of each set's classifiers, since those resemble each other, or the areas
    of the classifiers themselves where there is a single set.
    """
    areas = _areas(trainings)
    return [float(np.mean(values)) for values in areas] if len(areas) > 1 else areas[0]


def _areas(trainings: Trainings) -> list[list[float]]:
    return [[float(area(c.score, c.positive)) for c in training] for training in trainings]


@dataclass(frozen=True)
class SeedSpread:
    """Classifiers of one kind, trained with several seeds.

    Attributes:
        mean: Mean over all of them, with its interval, see `area_interval` and `independent_areas`.
        auc: Area under the curve of each, set by set.
        of_classifiers: Standard deviation between classifiers of the same set, the effect of
            training the classifier again; 0 with one for each set.
        of_generators: Standard deviation between the sets' means, the effect of training the
            generator again, and of what remains of the former; 0 for one set.
    """

    mean: Interval
    auc: list[float]
    of_classifiers: float
    of_generators: float


def seed_spread(trainings: Trainings) -> SeedSpread:
    """The areas of repeated trainings, their mean and their spread.

    Raises:
        UserError: The classifiers were not tested on the same patients.
    """
    _, positive = on_same_patients([c for training in trainings for c in training])
    areas = _areas(trainings)
    variances = [np.var(values, ddof=1) for values in areas if len(values) > 1]
    return SeedSpread(
        mean=area_interval(independent_areas(trainings), positive),
        auc=[value for values in areas for value in values],
        of_classifiers=float(np.sqrt(np.mean(variances))) if variances else 0.0,
        of_generators=(
            float(np.std(independent_areas(trainings), ddof=1)) if len(areas) > 1 else 0.0
        ),
    )


def on_same_patients(
    classifiers: Sequence[PatientScores],
) -> tuple[Float[np.ndarray, "classifier patient"], Bool[np.ndarray, " patient"]]:
    """Scores of several classifiers, and which patients have an atypical fracture.

    Raises:
        UserError: The classifiers were not tested on the same patients.
    """
    positive = classifiers[0].positive
    if any(not np.array_equal(c.positive, positive) for c in classifiers):
        raise UserError(
            "Classifiers can be compared only on the same patients, and these were tested on "
            "different ones; evaluate all of them on one split of one dataset."
        )
    return np.stack([c.score for c in classifiers]).astype(float), positive


MIN_PATIENTS = 5
"""Fewest patients of each class for which a group has an area under the curve."""

MIN_HOSPITALS = 4
"""Fewest hospitals for an interval over new hospitals."""


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


def auc_over_hospitals(
    score: Float[np.ndarray, " radiograph"],
    positive: Bool[np.ndarray, " radiograph"],
    patients: Sequence[str],
    hospitals: Sequence[str],
    *,
    confidence: float = 0.95,
) -> Interval | None:
    """Area under the curve of all patients, with an interval over new hospitals.

    Patients of one hospital resemble each other, so whole hospitals are resampled, by the
    infinitesimal jackknife, which is Obuchowski's 1997 variance of clustered patients (Biometrics
    53:567). Its ratio to DeLong's, or 1 where that is greater, multiplies the variance of
    `area_interval`, and t has one degree of freedom less than there are hospitals. Radiographs of a
    patient count for the hospital of the first of them.

    Returns:
        The interval, or None with fewer than MIN_HOSPITALS hospitals.

    Raises:
        UserError: A class has no patient, or a score is not finite.
    """
    cases = patient_scores(score, positive, patients)
    _, first = _case_of_each(positive, patients)
    number = {name: n for n, name in enumerate(dict.fromkeys(hospitals))}
    home = np.array([number[name] for name in hospitals])[first]
    present = len(np.unique(home))
    if present < MIN_HOSPITALS:
        return None
    areas, v10, v01 = placements(cases.score[None], cases.positive)
    value = float(areas[0])
    influence = np.empty(len(home))
    influence[cases.positive] = (v10[0] - value) / v10.shape[1]
    influence[~cases.positive] = (v01[0] - value) / v01.shape[1]
    by_hospital = np.bincount(home, weights=influence)
    clustered = present / (present - 1) * float(np.sum(by_hospital**2))
    alone = float(np.sum(influence**2))
    ratio = max(clustered / alone, 1.0) if alone else 1.0
    m, n = v10.shape[1], v01.shape[1]
    return _score_interval(
        value, lambda a: ratio * area_variance(a, m, n), lambda _: present - 1.0, confidence
    )


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
