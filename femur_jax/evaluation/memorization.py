"""Does a generator repeat its training set? Nearest neighbours, calibrated on held-out patients.

A sample is a vector (features) or a picture, as the search that is handed in takes it, or several
of them, its parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import betabinom, binomtest

from femur_jax.errors import UserError
from femur_jax.evaluation.neighbours import Neighbours, k_nearest
from femur_jax.evaluation.statistics import (
    Interval,
    patient_scores,
    roc_auc,
    sensitivity_at_specificity,
)

NEIGHBOURS = 50
"""Training samples whose mean distance says how near is near in that neighbourhood."""

EXPECTED_FALSE_COPIES = 0.01
"""How many honest samples of a whole set would be called copies, in expectation."""

SIGNIFICANCE = 0.01
"""p-value below which more samples are flagged than chance explains."""

_TAIL = 0.1


@runtime_checkable
class Search(Protocol):
    """`neighbours.k_nearest`, or `correlation.most_correlated`."""

    def __call__(
        self,
        queries: np.ndarray,
        references: np.ndarray,
        k: int,
        *,
        exclude: Int[np.ndarray, " query"] | None = None,
    ) -> Neighbours: ...


@dataclass(frozen=True)
class Audit:
    """What `audit` finds; arrays have one entry for each synthetic sample.

    Attributes:
        index: The nearest training sample.
        part: The part that is nearest to it.
        distance: From it.
        ratio: `distance_ratio`; a copy's is far below 1.
        threshold: Ratio up to which a sample is flagged.
        chance_share: Share of fresh real samples that would be flagged, in expectation.
        flagged: True where the sample is suspiciously near to a training sample.
        flagged_share: Of all samples, with a 95% interval (Clopper and Pearson).
        p_value: Probability of as many flagged or more if synthetic samples were as new as
            held-out patients.
        copy_ratio: Ratio up to which a sample is called a copy; no held-out sample reached it.
        copies: True where the sample is a copy.
        authentic: False where the sample is as near to a training sample as that sample's own
            nearest neighbour in the training set, or nearer.
        held_out: Number of held-out samples that this was calibrated on.
    """

    index: Int[np.ndarray, " sample"]
    part: Int[np.ndarray, " sample"]
    distance: Float[np.ndarray, " sample"]
    ratio: Float[np.ndarray, " sample"]
    threshold: float
    chance_share: float
    flagged: Bool[np.ndarray, " sample"]
    flagged_share: Interval
    p_value: float
    copy_ratio: float
    copies: Bool[np.ndarray, " sample"]
    authentic: Bool[np.ndarray, " sample"]
    held_out: int


def audit(
    synthetic: Float[np.ndarray, "sample ..."],
    train: Float[np.ndarray, "train ..."],
    held_out: Float[np.ndarray, "held_out ..."],
    search: Search = k_nearest,
) -> Audit:
    """Compares synthetic samples with the training set they may have been copied from.

    Args:
        synthetic: Samples of the generator.
        train: The generator's training samples.
        held_out: Real samples of other patients: they say how near is near by chance.
        search: Finds neighbours, and says by which distance.

    Raises:
        UserError: The training set has fewer than two samples or the held-out set none.
    """
    return audit_parts(synthetic[:, None], train[:, None], held_out[:, None], search)


def audit_parts(
    synthetic: Float[np.ndarray, "sample part ..."],
    train: Float[np.ndarray, "train part ..."],
    held_out: Float[np.ndarray, "held_out part ..."],
    search: Search = k_nearest,
) -> Audit:
    """Looks for samples of which a part was copied, such as `features.parts` of radiographs.

    A part is compared with the same part of training samples. Its distance ratio says how near is
    near for that part, so the part with the smallest ratio stands for the sample, in the synthetic
    and in the held-out set alike.

    Args:
        synthetic: Samples of the generator.
        train: The generator's training samples.
        held_out: Real samples of other patients: they say how near is near by chance.
        search: Finds neighbours, and says by which distance.

    Raises:
        UserError: The training set has fewer than two samples, or another set none.
    """
    k, parts = min(NEIGHBOURS, len(train)), range(train.shape[1])
    found = [search(synthetic[:, part], train[:, part], k) for part in parts]
    for name, samples in (("synthetic", synthetic), ("held-out real", held_out)):
        if len(samples) == 0:
            raise UserError(
                f"The memorisation audit needs {name} radiographs and there are none: "
                "sample some, or use a larger held-out split."
            )
    ratios = np.stack([distance_ratio(f) for f in found])
    part = ratios.argmin(axis=0)
    chosen = part, np.arange(len(synthetic))
    ratio = ratios[chosen]
    index, distance = (
        np.stack([nearest[:, 0] for nearest in values])[chosen]
        for values in ([f.index for f in found], [f.distance for f in found])
    )
    authentic = np.empty(len(synthetic), bool)
    for p in np.unique(part):
        own = part == p
        authentic[own] = is_authentic(index[own], distance[own], train[:, p], search)
    held_out_ratio = np.min(
        [distance_ratio(search(held_out[:, p], train[:, p], k)) for p in parts], axis=0
    )
    threshold = calibrated_threshold(held_out_ratio)
    flagged = ratio <= threshold
    count, n, m = int(flagged.sum()), len(synthetic), len(held_out)
    ends = binomtest(count, n).proportion_ci()
    # The threshold is at or below the `rank`-th smallest of m exchangeable ratios.
    rank = int(np.ceil(0.01 * (m + 1)))
    copy_ratio = _copy_ratio(held_out_ratio, n)
    return Audit(
        index=index,
        part=part,
        distance=distance,
        ratio=ratio,
        threshold=threshold,
        chance_share=max(0.01, 1 / (m + 1)),
        flagged=flagged,
        flagged_share=Interval(count / n, float(ends.low), float(ends.high)),
        p_value=float(betabinom.sf(count - 1, n, rank, m + 1 - rank)),
        copy_ratio=copy_ratio,
        copies=ratio <= copy_ratio,
        authentic=authentic,
        held_out=m,
    )


def distance_ratio(found: Neighbours) -> Float[np.ndarray, " query"]:
    """d(y, x*) over half the mean distance to the nearest training samples, of which x* is one.

    With 50 neighbours, the ratio of Carlini et al. 2023 (arXiv 2301.13188, section 5.1): in a
    dense part of the training set near is nothing special. Two equal vectors have the ratio 0.
    """
    scale = 0.5 * found.distance.mean(axis=1)
    return found.distance[:, 0] / np.where(scale > 0, scale, 1.0)


def calibrated_threshold(held_out: Float[np.ndarray, " held_out"]) -> float:
    """The first percentile of held-out real samples' distances, or ratios, to the training set.

    The percentile is the one that a fresh real sample undercuts with a probability of 1% in
    expectation (Weibull's plotting position, k / (n + 1)). With fewer than 99 held-out samples it
    is their smallest value, and the probability is 1 / (n + 1).
    """
    return float(np.percentile(held_out, 1, method="weibull"))


def _copy_ratio(held_out: Float[np.ndarray, " held_out"], samples: int) -> float:
    """A ratio so small that a set of honest samples has EXPECTED_FALSE_COPIES up to it.

    Held-out samples are too few to show such a rare event, so the tail of 1 / ratio is taken as
    Pareto's, with Hill's 1975 estimate from the tenth of smallest ratios: heavier than a normal
    one, since some patients do look alike. The result is below all ratios that were seen.
    """
    logarithm = np.log(np.maximum(held_out, 1e-12))
    start = np.quantile(logarithm, _TAIL)
    excess = np.mean(start - logarithm[logarithm <= start])
    tail = start - excess * np.log(_TAIL * samples / EXPECTED_FALSE_COPIES)
    return float(min(np.exp(tail), np.nextafter(held_out.min(), -1)))


def is_authentic(
    index: Int[np.ndarray, " sample"],
    distance: Float[np.ndarray, " sample"],
    train: Float[np.ndarray, "train ..."],
    search: Search = k_nearest,
) -> Bool[np.ndarray, " sample"]:
    """Authenticity (Alaa et al. 2022, arXiv 2102.08921): d(y, x*) > d(x*, NN(x*)).

    NN(x*) is the training sample nearest to x* other than itself.

    Args:
        index: The training sample x* nearest to each synthetic sample y.
        distance: d(y, x*).
        train: The training samples that were searched.
        search: That was searched with.
    """
    star, back = np.unique(index, return_inverse=True)
    spacing = search(train[star], train, 1, exclude=star).distance[:, 0]
    return distance > spacing[back]


@dataclass(frozen=True)
class Verdict:
    """Whether the audits found copies, and the sentence that says so with its thresholds."""

    found_copies: bool
    sentence: str


def verdict(audits: Mapping[str, Audit]) -> Verdict:
    """Sums up audits of one synthetic set, by the name of what was compared.

    It accuses where any audit has a copy, or more flagged samples than chance explains (with
    Bonferroni's correction for several audits).
    """
    level = SIGNIFICANCE / len(audits)
    parts, accused = [], False
    for name, found in audits.items():
        many = found.p_value < level
        copies = int(found.copies.sum())
        accused |= many or copies > 0
        share = found.flagged_share
        parts.append(
            f"by {name}, {copies} of {len(found.ratio)} have a distance ratio of at most "
            f"{found.copy_ratio:.2f} (copies; {EXPECTED_FALSE_COPIES} expected by chance) and "
            f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}] one of at most "
            f"{found.threshold:.2f}, like {found.chance_share:.1%} of {found.held_out} held-out "
            f"real ones ({'more than' if many else 'as'} chance explains, p = {found.p_value:.2g}, "
            f"limit {level:.2g})"
        )
    opening = (
        "Do not share: training radiographs are repeated"
        if accused
        else "No sign of copies; details smaller than what was compared may still be repeated"
    )
    return Verdict(accused, f"{opening}: {'; '.join(parts)}.")


@dataclass(frozen=True)
class MembershipInference:
    """How well an attacker with the synthetic set alone tells who was in the training set.

    Attributes:
        auc: Area under the ROC curve over patients; 0.5 is a coin.
        tpr_at_1_fpr: Share of training patients found at 1% false accusations, which a coin puts
            at 1% (Carlini et al. 2022, arXiv 2112.03570). With fewer than 100 held-out patients
            no false accusation is allowed.
    """

    auc: Interval
    tpr_at_1_fpr: Interval


def membership_inference(
    synthetic: Float[np.ndarray, "sample ..."],
    train: Float[np.ndarray, "train ..."],
    held_out: Float[np.ndarray, "held_out ..."],
    train_patients: Sequence[str],
    held_out_patients: Sequence[str],
    search: Search = k_nearest,
) -> MembershipInference:
    """The nearest-neighbour attack: a member lies nearer to some synthetic sample.

    The full black-box attack of Chen et al. 2020 (GAN-Leaks, arXiv 1909.03935, section 4.2); a
    patient's score is the mean over their radiographs.
    """
    real = np.concatenate([train, held_out])
    member = np.arange(len(real)) < len(train)
    score = -search(real, synthetic, 1).distance[:, 0]
    patients = patient_scores(score, member, [*train_patients, *held_out_patients])
    return MembershipInference(roc_auc(patients), sensitivity_at_specificity(patients, 0.99))
