"""Audits: does a generator repeat training samples? Distances calibrated on other patients.

An audit sees distances alone, so features and pictures are audited in the same way. A sample may
be compared in several parts; the part that is suspiciously near stands for it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import betabinom, binomtest

from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import Interval

NEIGHBOURS = 50
"""Training samples whose mean distance is the scale of distances in a neighbourhood."""

_TAIL = 0.1


@dataclass(frozen=True)
class Distances:
    """Distances from the training samples, one matrix for each part that is compared.

    Attributes:
        synthetic: Distances of the generator's samples.
        held_out: Distances of real samples of other patients.
        train: Distances of the training samples from each other; those of the same patient are
            infinite.
    """

    synthetic: Float[np.ndarray, "part sample train"]
    held_out: Float[np.ndarray, "part held_out train"]
    train: Float[np.ndarray, "part train train"]


@dataclass(frozen=True)
class Audit:
    """What `audit` finds; arrays have one entry for each synthetic sample.

    Attributes:
        index: The nearest training sample.
        part: The part of the sample that is nearest to the training sample's.
        ratio: `distance_ratio`, which is far below 1 for a copy.
        neighbours: Number of nearest training samples in the ratio.
        threshold: Ratio up to which a sample is flagged.
        chance_share: Share of fresh real samples that would be flagged, in expectation.
        flagged: True where the sample is suspiciously near to a training sample.
        flagged_share: Share of flagged samples with its 95% interval (Clopper and Pearson).
        p_value: Probability of as many flagged or more if synthetic samples were as new as
            other patients' real ones.
        copy_ratio: Ratio up to which a sample is called a copy; no real sample reached it.
        copies: True where the sample is a copy.
        authentic: False where the sample is as near to a training sample as the nearest training
            sample of another patient, or nearer (Alaa et al. 2022, arXiv 2102.08921).
        calibrated_on: Number of real samples of other patients that set the thresholds.
    """

    index: Int[np.ndarray, " sample"]
    part: Int[np.ndarray, " sample"]
    ratio: Float[np.ndarray, " sample"]
    neighbours: int
    threshold: float
    chance_share: float
    flagged: Bool[np.ndarray, " sample"]
    flagged_share: Interval
    p_value: float
    copy_ratio: float
    copies: Bool[np.ndarray, " sample"]
    authentic: Bool[np.ndarray, " sample"]
    calibrated_on: int

    def finds(
        self, distances: Float[np.ndarray, "part planted train"]
    ) -> Bool[np.ndarray, " planted"]:
        """True where a further sample, by its distances, would be called a copy."""
        return distance_ratio(distances, self.neighbours).min(axis=0) <= self.copy_ratio


def audit(distances: Distances, false_copies: float = 0.01) -> Audit:
    """Compares synthetic samples with the training set that they may repeat.

    Near by chance is what real samples of other patients are: the held-out ones, and each training
    sample among the training samples of other patients.

    Args:
        distances: Distances from the training samples.
        false_copies: Expected number of samples of an honest set that are called copies.

    Raises:
        UserError: The training set has fewer than two patients.
    """
    others = np.isfinite(distances.train).sum(axis=2)
    neighbours = int(others.min(initial=NEIGHBOURS))
    if others.size == 0 or neighbours == 0:
        raise UserError(
            "The memorisation audit needs training radiographs of two patients or more: use a "
            "larger split."
        )
    ratios = distance_ratio(distances.synthetic, neighbours)
    part = ratios.argmin(axis=0)
    nearest = part, np.arange(len(part))
    ratio = ratios[nearest]
    index = distances.synthetic.argmin(axis=2)[nearest]
    real = np.concatenate([distances.held_out, distances.train], axis=1)
    real = distance_ratio(real, neighbours).min(axis=0)
    threshold = calibrated_threshold(real)
    flagged = ratio <= threshold
    count, n, m = int(flagged.sum()), len(ratio), len(real)
    ends = binomtest(count, n).proportion_ci()
    # The threshold is at or below the `rank`-th smallest of m exchangeable ratios.
    rank = int(np.ceil(0.01 * (m + 1)))
    copy_ratio = _copy_ratio(real, false_copies / n)
    return Audit(
        index=index,
        part=part,
        ratio=ratio,
        neighbours=neighbours,
        threshold=threshold,
        chance_share=max(0.01, 1 / (m + 1)),
        flagged=flagged,
        flagged_share=Interval(count / n, float(ends.low), float(ends.high)),
        p_value=float(betabinom.sf(count - 1, n, rank, m + 1 - rank)),
        copy_ratio=copy_ratio,
        copies=ratio <= copy_ratio,
        authentic=distances.synthetic.min(axis=2)[nearest]
        > distances.train.min(axis=2)[part, index],
        calibrated_on=m,
    )


def distance_ratio(
    distances: Float[np.ndarray, "part sample train"], neighbours: int
) -> Float[np.ndarray, "part sample"]:
    """d(y, x*) over half the mean distance to the nearest training samples, x* included.

    With 50 neighbours, the ratio of Carlini et al. 2023 (arXiv 2301.13188, section 5.1): in a
    dense part of the training set near is nothing special. Two equal samples have the ratio 0.
    """
    nearest = np.partition(distances, neighbours - 1, axis=2)[:, :, :neighbours]
    scale = 0.5 * nearest.mean(axis=2)
    return nearest.min(axis=2) / np.where(scale > 0, scale, 1.0)


def calibrated_threshold(real: Float[np.ndarray, " real"]) -> float:
    """The first percentile of real samples' distances, or ratios, to other patients' samples.

    The percentile is the one that a fresh real sample undercuts with a probability of 1% in
    expectation (Weibull's plotting position, k / (n + 1)). With fewer than 99 samples it is their
    smallest value, and the probability is 1 / (n + 1).
    """
    return float(np.percentile(real, 1, method="weibull"))


def _copy_ratio(real: Float[np.ndarray, " real"], probability: float) -> float:
    """Ratio that an honest sample reaches with the given probability.

    Real samples are too few to show such a rare event, so the tail of 1 / ratio is assumed to be
    Pareto's, with Hill's 1975 estimate from the smallest tenth of the ratios: heavier than a normal
    tail, since some patients do look alike. The result is below all real ratios.
    """
    logarithm = np.log(np.maximum(real, 1e-12))
    start = np.quantile(logarithm, _TAIL)
    excess = np.mean(start - logarithm[logarithm <= start])
    tail = start - excess * np.log(_TAIL / probability)
    return float(min(np.exp(tail), np.nextafter(real.min(), -1)))
