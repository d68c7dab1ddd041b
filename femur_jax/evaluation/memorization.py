"""Does a generator repeat its training set? Nearest neighbours, calibrated on held-out patients.

Quality is reached after a time that does not depend on the number of training images, and
memorisation begins later, the later the more of them there are (Bonnaire et al. 2025, arXiv
2505.17638): the step to sample from lies between the two, and the audit of a run's snapshots
finds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import betabinom, binomtest

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.features import (
    Extractor,
    crop_scale,
    crops,
    radiograph_features,
    thumbnails,
)
from femur_jax.evaluation.neighbours import Neighbours, k_nearest, most_correlated
from femur_jax.evaluation.radiograph_set import PerRadiograph, RadiographSet, of_split
from femur_jax.evaluation.statistics import (
    Interval,
    patient_scores,
    roc_auc,
    sensitivity_at_specificity,
)

NEIGHBOURS = 50
"""Training samples whose mean distance is the scale of distances in a neighbourhood."""

EXPECTED_FALSE_COPIES = 0.01
"""Expected number of samples of a whole honest set that are called copies."""

SIGNIFICANCE = 0.01
"""p-value below which more samples are flagged than chance explains."""

WHOLE, CROPS = "correlation", "correlation of crops"
"""The two audits of pictures, as verdicts call them."""

_TAIL = 0.1
_CROP_SHIFT = 6  # pixels of about 100 by which a generator may have moved a crop


@runtime_checkable
class Search(Protocol):
    """`neighbours.k_nearest` or `neighbours.most_correlated`."""

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
        crop: The crop of the sample that is nearest to the training sample's.
        distance: Distance from the nearest training sample.
        ratio: `distance_ratio`, which is far below 1 for a copy.
        threshold: Ratio up to which a sample is flagged.
        chance_share: Share of fresh real samples that would be flagged, in expectation.
        flagged: True where the sample is suspiciously near to a training sample.
        flagged_share: Share of flagged samples with its 95% interval (Clopper and Pearson).
        p_value: Probability of as many flagged or more if synthetic samples were as new as
            held-out patients.
        copy_ratio: Ratio up to which a sample is called a copy; no held-out sample reached it.
        copies: True where the sample is a copy.
        authentic: False where the sample is as near to a training sample as that sample's own
            nearest neighbour in the training set, or nearer.
        held_out: Number of held-out samples that the audit was calibrated on.
    """

    index: Int[np.ndarray, " sample"]
    crop: Int[np.ndarray, " sample"]
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
    """Compares synthetic samples with the training set that they may repeat.

    A sample is a vector (features) or a picture, as the search takes it.

    Args:
        synthetic: Samples of the generator.
        train: The generator's training samples.
        held_out: Real samples of other patients, which show how near is near by chance.
        search: Search for neighbours, which defines the distance.

    Raises:
        UserError: The training set has fewer than two samples, or another set has none.
    """
    return audit_crops(synthetic[:, None], train[:, None], held_out[:, None], search)


def audit_crops(
    synthetic: Float[np.ndarray, "sample crop ..."],
    train: Float[np.ndarray, "train crop ..."],
    held_out: Float[np.ndarray, "held_out crop ..."],
    search: Search = k_nearest,
) -> Audit:
    """Looks for samples that repeat a crop of a training sample (see `features.crops`).

    A crop is compared with the same crop of the training samples. Its distance ratio shows how
    near is near for that crop, so the crop with the smallest ratio stands for the sample, in the
    synthetic and in the held-out set alike. Arguments and errors are those of `audit`.
    """
    k, n_crops = min(NEIGHBOURS, len(train)), range(train.shape[1])
    neighbours = [search(synthetic[:, c], train[:, c], k) for c in n_crops]
    for name, samples in (("synthetic", synthetic), ("held-out real", held_out)):
        if len(samples) == 0:
            raise UserError(
                f"The memorisation audit needs {name} radiographs and there are none: "
                "sample some, or use a larger held-out split."
            )
    ratios = np.stack([distance_ratio(found) for found in neighbours])
    crop = ratios.argmin(axis=0)
    nearest = crop, np.arange(len(synthetic))
    ratio = ratios[nearest]
    index = np.stack([found.index[:, 0] for found in neighbours])[nearest]
    distance = np.stack([found.distance[:, 0] for found in neighbours])[nearest]
    authentic = np.empty(len(synthetic), bool)
    for c in np.unique(crop):
        samples = crop == c
        authentic[samples] = is_authentic(index[samples], distance[samples], train[:, c], search)
    held_out_ratio = np.min(
        [distance_ratio(search(held_out[:, c], train[:, c], k)) for c in n_crops], axis=0
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
        crop=crop,
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


def distance_ratio(neighbours: Neighbours) -> Float[np.ndarray, " query"]:
    """d(y, x*) over half the mean distance to the nearest training samples, x* included.

    With 50 neighbours, the ratio of Carlini et al. 2023 (arXiv 2301.13188, section 5.1): in a
    dense part of the training set near is nothing special. Two equal vectors have the ratio 0.
    """
    scale = 0.5 * neighbours.distance.mean(axis=1)
    return neighbours.distance[:, 0] / np.where(scale > 0, scale, 1.0)


def calibrated_threshold(held_out: Float[np.ndarray, " held_out"]) -> float:
    """The first percentile of held-out real samples' distances, or ratios, to the training set.

    The percentile is the one that a fresh real sample undercuts with a probability of 1% in
    expectation (Weibull's plotting position, k / (n + 1)). With fewer than 99 held-out samples it
    is their smallest value, and the probability is 1 / (n + 1).
    """
    return float(np.percentile(held_out, 1, method="weibull"))


def _copy_ratio(held_out: Float[np.ndarray, " held_out"], samples: int) -> float:
    """Ratio up to which a set of honest samples has EXPECTED_FALSE_COPIES samples.

    Held-out samples are too few to show such a rare event, so the tail of 1 / ratio is assumed to
    be Pareto's, with Hill's 1975 estimate from the smallest tenth of the ratios: heavier than a
    normal tail, since some patients do look alike. The result is below all held-out ratios.
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
        distance: The distances d(y, x*).
        train: The training samples that were searched.
        search: The search that found them.
    """
    star, back = np.unique(index, return_inverse=True)
    spacing = search(train[star], train, 1, exclude=star).distance[:, 0]
    return distance > spacing[back]


@dataclass(frozen=True)
class Verdict:
    """Whether the audits found copies, and the sentence that says so with its thresholds."""

    found_copies: bool
    sentence: str


def conclude(audits: Mapping[str, Audit]) -> Verdict:
    """Verdict on one synthetic set from its audits, by the name of what was compared.

    It accuses where any audit has a copy, or more flagged samples than chance explains (with
    Bonferroni's correction for several audits).
    """
    level = SIGNIFICANCE / len(audits)
    findings, accused = [], False
    for name, audit in audits.items():
        many = audit.p_value < level
        copies = int(audit.copies.sum())
        accused |= many or copies > 0
        share = audit.flagged_share
        findings.append(
            f"by {name}, {copies} of {len(audit.ratio)} have a distance ratio of at most "
            f"{audit.copy_ratio:.2f} (copies; {EXPECTED_FALSE_COPIES} expected by chance) and "
            f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}] one of at most "
            f"{audit.threshold:.2f}, like {audit.chance_share:.1%} of {audit.held_out} held-out "
            f"real ones ({'more than' if many else 'as'} chance explains, p = {audit.p_value:.2g}, "
            f"limit {level:.2g})"
        )
    opening = (
        "Do not share: training radiographs are repeated"
        if accused
        else "No sign of copies; details smaller than what was compared may still be repeated"
    )
    return Verdict(accused, f"{opening}: {'; '.join(findings)}.")


@dataclass(frozen=True)
class MembershipInference:
    """How well an attacker who has only the synthetic set infers who was in the training set.

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


@dataclass(frozen=True)
class Copies:
    """The audits of one synthetic set.

    Attributes:
        audits: The audits, by what was compared.
        membership: Success of the attacker who compares whole radiographs.
        verdict: Verdict over all audits.
        train: The training radiographs that `Audit.index` counts.
    """

    audits: Mapping[str, Audit]
    membership: MembershipInference
    verdict: Verdict
    train: RadiographSet


def find_copies(
    real: RadiographDataset, synthetic: RadiographSet, extractor: Extractor, *, by: str = "patient"
) -> Copies:
    """Looks for each synthetic radiograph, and each crop of it, among the training radiographs.

    Pictures are correlated under small shifts and mirroring, whole and in crops at native scale;
    features are compared by their distance. Thresholds are set on the patients of the validation
    and the test split together. Only training radiographs of the synthetic set's classes count.

    Args:
        real: The dataset that the generator was trained on.
        synthetic: Radiographs of a generator.
        extractor: Features that were not learned from `real`.
        by: The split that the generator was trained on, see `RadiographDataset.split`.

    Raises:
        UserError: There are too few radiographs.
    """
    train, held_out = (
        of_split([real], *splits, by=by).of(*synthetic.labels)
        for splits in (("train",), ("validation", "test"))
    )
    if not (synthetic and train and held_out):
        raise UserError(
            "The memorisation audit needs synthetic, training and held-out radiographs, and there "
            f"are {len(synthetic)}, {len(train)}, {len(held_out)}: sample some, or use a larger "
            "split."
        )

    def of_each(function: PerRadiograph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return synthetic.map(function), train.map(function), held_out.map(function)

    pictures = of_each(thumbnails)
    longest = max(crop_scale(dataset, [n]) for dataset, n in synthetic.members)
    close = partial(most_correlated, shift=_CROP_SHIFT)
    audits = {
        WHOLE: audit(*pictures, most_correlated),
        CROPS: audit_crops(*of_each(partial(crops, longest=longest)), close),
        extractor.name: audit(*of_each(partial(radiograph_features, extractor))),
    }
    attack = membership_inference(*pictures, train.patients, held_out.patients, most_correlated)
    return Copies(audits, attack, conclude(audits), train)


@dataclass(frozen=True)
class Point:
    """Summary of the audits of the radiographs that a snapshot generates.

    Attributes:
        step: Training step of the snapshot.
        copies: Radiographs that an audit calls a copy, in the audit with the most of them.
        flagged_share: Share of flagged radiographs, likewise.
        chance_share: Share that would be flagged if all were new, of that audit.
        median_ratio: Median distance ratio, in the audit with the lowest.
        membership_auc: AUC of the attacker who compares whole radiographs.
        found_copies: Whether the verdict says that there are copies.
    """

    step: int
    copies: int
    flagged_share: float
    chance_share: float
    median_ratio: float
    membership_auc: float
    found_copies: bool

    @classmethod
    def of(cls, step: int, copies: Copies) -> "Point":
        """Summary of the audits of one step."""
        audits = copies.audits.values()
        worst = max(audits, key=lambda audit: audit.flagged_share.value)
        return cls(
            step=step,
            copies=max(int(audit.copies.sum()) for audit in audits),
            flagged_share=worst.flagged_share.value,
            chance_share=worst.chance_share,
            median_ratio=min(float(np.median(audit.ratio)) for audit in audits),
            membership_auc=copies.membership.auc.value,
            found_copies=copies.verdict.found_copies,
        )


def before_onset(points: Sequence[Point]) -> int | None:
    """The last step before the first one with copies; None where the first step has copies."""
    clean = None
    for point in sorted(points, key=lambda point: point.step):
        if point.found_copies:
            break
        clean = point.step
    return clean


def onset_table(points: Sequence[Point]) -> str:
    """Table of the points, and one sentence that names the step to sample from."""
    lines = ["    step  copies  flagged  by chance  median ratio  membership AUC"]
    lines += [
        f"{p.step:8}  {p.copies:6}  {p.flagged_share:7.1%}  {p.chance_share:9.1%}  "
        f"{p.median_ratio:12.2f}  {p.membership_auc:14.2f}"
        for p in sorted(points, key=lambda point: point.step)
    ]
    step = before_onset(points)
    if step is None:
        lines.append(
            "The first step has copies already: audit earlier ones (config.train.snapshot_every)."
        )
    elif step == max(p.step for p in points):
        lines.append(f"No copies up to step {step}.")
    else:
        lines.append(
            f"Copies begin after step {step}; sample from it with --config.sample.snapshot={step}."
        )
    return "\n".join(lines)
