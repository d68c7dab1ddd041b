"""How often intervals hold the truth and tests are wrong, in simulations whose truth is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from femur_jax.evaluation.contrasts import auc_difference
from femur_jax.evaluation.kernels import kernel_distance
from femur_jax.evaluation.statistics import (
    PatientScores,
    Trainings,
    area,
    area_interval,
    auc_over_hospitals,
)


@dataclass(frozen=True)
class Rate:
    """A share of repetitions, with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, happened: Bool[np.ndarray, " repetition"]) -> "Rate":
        """The share of True."""
        share = float(np.mean(happened))
        return cls(share, float(np.sqrt(share * (1 - share) / len(happened))))

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


def two_arms(
    rng: np.random.Generator,
    positives: int,
    negatives: int,
    *,
    trainings: int = 3,
    classifiers: int = 1,
    true_area: float = 0.85,
    deviation: float = 0.02,
    of_classifiers: float = 0.0,
    difference: float = 0.0,
) -> tuple[Trainings, Trainings]:
    """Two arms of classifiers tested on the same patients, whose scores are binormal.

    The area of each training over all patients that there could be is normal about `true_area`
    with a standard deviation of `deviation`, and that of each of its `classifiers` about the
    training's with one of `of_classifiers`. Classifiers share nine tenths of the variance of a
    patient's score.
    """
    positive = np.arange(positives + negatives) < positives
    patient = np.sqrt(0.9) * rng.normal(size=positive.size)
    shape = (trainings, classifiers)
    arms: list[Trainings] = []
    for shift in (difference / 2, -difference / 2):
        areas = true_area + shift + deviation * rng.normal(size=(trainings, 1))
        areas = areas + of_classifiers * rng.normal(size=shape)
        distance = np.sqrt(2) * norm.ppf(np.clip(areas, 0.5, 0.9999))
        own = np.sqrt(0.1) * rng.normal(size=(*shape, positive.size))
        scores = distance[..., None] * positive + patient + own
        arms.append([[PatientScores(score, positive) for score in of_one] for of_one in scores])
    return arms[0], arms[1]


def contrast_rate(
    studies: int, positives: int, negatives: int, *, nested: bool = True, **arms: Any
) -> Rate:
    """Share of studies that call two arms different at 5%; `arms` is passed to `two_arms`.

    Where `nested` is false, classifiers count as if each had a training of its own.
    """
    rng = np.random.default_rng(0)
    pairs = [two_arms(rng, positives, negatives, **arms) for _ in range(studies)]
    if not nested:
        pairs = [(alone(first), alone(second)) for first, second in pairs]
    return Rate.of(np.array([auc_difference(*pair).p_value for pair in pairs]) < 0.05)


def alone(arm: Trainings) -> Trainings:
    """The same classifiers, each as a training of its own."""
    return [[classifier] for own in arm for classifier in own]


def coverage(
    sets: int, positives: int, negatives: int, true_area: float, spread: float = 1
) -> Rate:
    """Share of test sets whose interval of the area holds the true one.

    Scores are normal, with a standard deviation of 1 for negatives and `spread` for positives.
    """
    rng = np.random.default_rng(0)
    positive = np.arange(positives + negatives) < positives
    distance = np.hypot(1, spread) * norm.ppf(true_area)
    scale = np.where(positive, spread, 1.0)
    found = area(distance * positive + scale * rng.normal(size=(sets, positive.size)), positive)
    values, index = np.unique(found, return_inverse=True)
    intervals = [area_interval([value], positive) for value in values]
    return Rate.of(np.array([i.low <= true_area <= i.high for i in intervals])[index])


def hospital_coverage(sets: int, hospitals: int, *, by_hospital: bool) -> Rate:
    """Share of test sets of several hospitals whose interval holds the area over all hospitals.

    Each hospital has 4 to 12 patients, a share of positives of its own (Beta(2, 3)), and a shift of
    all of its scores with the standard deviation of a patient's.

    Args:
        sets: Number of test sets.
        hospitals: Number of hospitals of each.
        by_hospital: Whether the interval is over new hospitals, or over new patients.
    """
    rng = np.random.default_rng(0)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        home = np.repeat(np.arange(count), rng.integers(4, 13, count))
        positive = rng.random(home.size) < rng.beta(2, 3, count)[home]
        score = 2 * positive + rng.normal(size=home.size) + rng.normal(size=count)[home]
        return score, positive, home

    score, positive, _ = drawn(20_000)
    truth = float(area(score, positive))
    held = []
    while len(held) < sets:
        score, positive, home = drawn(hospitals)
        if positive.all() or not positive.any():
            continue
        names = [str(n) for n in range(home.size)]
        if by_hospital:
            interval = auc_over_hospitals(score, positive, names, [str(h) for h in home])
            assert interval is not None, "there are hospitals enough"
        else:
            interval = area_interval([float(area(score, positive))], positive)
        held.append(interval.low <= truth <= interval.high)
    return Rate.of(np.array(held))


Features = Callable[[np.random.Generator], Float[np.ndarray, "n dim"]]


def kid_rate(comparisons: int, real: Features, synthetic: Features) -> Rate:
    """Share of comparisons in which KID's p value is below 5%; each sample is another patient."""
    rng = np.random.default_rng(0)
    p = [
        kernel_distance(real(rng), synthetic(rng), permutations=199, seed=n).p_value
        for n in range(comparisons)
    ]
    return Rate.of(np.array(p) < 0.05)


def perfect_generator_rate(comparisons: int) -> Rate:
    """Share of generators that draw from the real distribution and are called different.

    The real set has 20 AFF and 20 NFF of patients with 1 to 3 radiographs that are much alike, and
    the synthetic one as many that are independent.
    """
    rng = np.random.default_rng(0)

    def drawn(per_label: int, most: int) -> tuple[np.ndarray, list[str], list[str]]:
        rows: list[np.ndarray] = []
        patients: list[str] = []
        labels: list[str] = []
        for label, shift in (("NFF", 0.0), ("AFF", 0.8)):
            while labels.count(label) < per_label:
                own, person = rng.normal(shift, 1, 16), len(rows)
                for _ in range(min(rng.integers(1, most + 1), per_label - labels.count(label))):
                    rows.append(np.sqrt(0.8) * own + np.sqrt(0.2) * rng.normal(shift, 1, 16))
                    patients.append(str(person))
                    labels.append(label)
        return np.stack(rows), patients, labels

    p = []
    for n in range(comparisons):
        real, synthetic = drawn(20, 3), drawn(20, 1)
        distance = kernel_distance(
            real[0],
            synthetic[0],
            patients=(real[1], synthetic[1]),
            labels=(real[2], synthetic[2]),
            permutations=199,
            seed=n,
        )
        p.append(distance.p_value)
    return Rate.of(np.array(p) < 0.05)


def kid_detection_rate(comparisons: int) -> Rate:
    """Share of generators that are found by KID where 60 of their radiographs are a little off.

    64 independent features have a mean of 0.18 standard deviations in place of zero.
    """
    return kid_rate(
        comparisons,
        lambda rng: rng.normal(size=(60, 64)),
        lambda rng: rng.normal(0.18, 1, size=(60, 64)),
    )


@measurement("", Goal("<=", 0.06), timed=False)
def contrast_false_positives() -> Result:
    """Share of studies that call two equal arms different at 5%.

    Each arm is trained three times, the true area of a training has a standard deviation of 0.02,
    and so has that of each of its classifiers about it, where there are several; 28 patients with
    and 42 without an atypical fracture are tested. The value is the greatest rate of the settings
    in the details; there, `wrong` counts each classifier as a training of its own.
    """
    settings = {
        "28 and 42 patients, 3 trainings": contrast_rate(4000, 28, 42),
        "60 and 240 patients, 3 trainings": contrast_rate(4000, 60, 240),
        "200 and 800 patients, 3 trainings": contrast_rate(2000, 200, 800),
        "60 and 240 patients, 5 trainings": contrast_rate(2000, 60, 240, trainings=5),
        "10 and 40 patients, area 0.95": contrast_rate(2000, 10, 40, true_area=0.95),
        "60 and 240 patients, 3 trainings with 3 classifiers each": contrast_rate(
            2000, 60, 240, classifiers=3, of_classifiers=0.02
        ),
    }
    wrong = {
        "wrong: 3 trainings with 3 classifiers each": contrast_rate(
            2000, 60, 240, classifiers=3, of_classifiers=0.02, nested=False
        )
    }
    found = {
        f"found, areas {0.05 * n:.2f} apart, 60 and 240 patients": contrast_rate(
            1000, 60, 240, difference=0.05 * n
        )
        for n in (1, 2, 3)
    }
    return Result(
        value=max(rate.value for rate in settings.values()),
        device=cpu(),
        details={name: str(rate) for name, rate in (settings | wrong | found).items()},
    )


@measurement("", Goal(">=", 0.93), timed=False)
def auc_interval_coverage_099() -> Result:
    """Share of 95% intervals that hold an area of 0.99, of 28 and 42 patients.

    The details have other areas and numbers of patients, positives with twice the spread, and the
    intervals over new hospitals next to those over new patients where patients of a hospital are
    alike.
    """
    others = {
        f"area {true_area}, {m} and {n} patients": coverage(20_000, m, n, true_area)
        for m, n in ((28, 42), (5, 12), (60, 240))
        for true_area in (0.5, 0.7, 0.9, 0.95, 0.99)
    }
    others["area 0.9, 28 and 42 patients, positives with twice the spread"] = coverage(
        20_000, 28, 42, 0.9, spread=2.0
    )
    for hospitals in (4, 8, 20, 72):
        for name, by_hospital in (("hospitals", True), ("patients", False)):
            rate = hospital_coverage(2000, hospitals, by_hospital=by_hospital)
            others[f"{hospitals} hospitals, interval over new {name}"] = rate
    return Result(
        value=others["area 0.99, 28 and 42 patients"].value,
        device=cpu(),
        details={name: str(rate) for name, rate in others.items()},
    )


@measurement("", Goal(">=", 0.9), timed=False)
def kid_power() -> Result:
    """Share of generators that are a little off and are found by KID's permutation test.

    60 real and 60 synthetic radiographs have 64 independent features, whose mean differs by 0.18
    standard deviations. The details have the rates for generators without a fault.
    """
    power = kid_detection_rate(1000)
    details = {
        "power": power,
        "a perfect generator, a radiograph for each patient": kid_rate(
            2000, lambda rng: rng.normal(size=(60, 64)), lambda rng: rng.normal(size=(60, 64))
        ),
        "a perfect generator, real patients with 1 to 3 radiographs": perfect_generator_rate(2000),
    }
    return Result(
        value=power.value,
        device=cpu(),
        details={name: str(rate) for name, rate in details.items()},
    )
