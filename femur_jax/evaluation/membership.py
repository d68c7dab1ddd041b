"""Membership inference: does a synthetic set reveal who was in the training set?

One attack looks for training radiographs near synthetic ones. The other compares densities, so it
sees a set that is too frequent around the training patients although no sample lies near one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, mannwhitneyu
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity

from femur_jax.evaluation.statistics import Interval, patient_scores, roc_auc

FEWEST_HELD_OUT = 100
"""Fewest held-out patients among whom a rate of 1% can be seen."""

_DIMENSIONS = 8  # principal components in which densities are estimated


@dataclass(frozen=True)
class MembershipInference:
    """How well an attacker who has only the synthetic set infers who was in the training set.

    Attributes:
        auc: Area under the ROC curve over patients; 0.5 is a coin.
        p_value: Probability of such an area or a larger one if the set revealed nothing.
        tpr_at_1_fpr: Share of training patients found at 1% false accusations, which a coin puts
            at 1% (Carlini et al. 2022, arXiv 2112.03570), with Clopper and Pearson's 95% interval
            at the threshold that the held-out patients set. None with fewer than 100 of these.
    """

    auc: Interval
    p_value: float
    tpr_at_1_fpr: Interval | None


def membership_inference(
    train: Float[np.ndarray, " train"],
    held_out: Float[np.ndarray, " held_out"],
    train_patients: Sequence[str],
    held_out_patients: Sequence[str],
) -> MembershipInference:
    """The nearest-neighbour attack: a member lies nearer to some synthetic sample.

    The full black-box attack of Chen et al. 2020 (GAN-Leaks, arXiv 1909.03935, section 4.2); a
    patient's score is the mean over their radiographs.

    Args:
        train: Distance of each training radiograph from the nearest synthetic one, or the negative
            score of another attack.
        held_out: The same of each held-out radiograph.
        train_patients: Pseudonym of each training radiograph's patient.
        held_out_patients: Pseudonym of each held-out radiograph's patient.

    Raises:
        UserError: There are no training or no held-out patients.
    """
    score = -np.concatenate([train, held_out])
    member = np.arange(len(score)) < len(train)
    patients = patient_scores(score, member, [*train_patients, *held_out_patients])
    members, others = patients.score[patients.positive], patients.score[~patients.positive]
    rate = None
    if len(others) >= FEWEST_HELD_OUT:
        threshold = np.sort(others)[-1 - len(others) // 100]
        inferred = int((members > threshold).sum())
        ends = binomtest(inferred, len(members)).proportion_ci()
        rate = Interval(inferred / len(members), float(ends.low), float(ends.high))
    return MembershipInference(
        auc=roc_auc(patients),
        p_value=float(mannwhitneyu(members, others, alternative="greater").pvalue),
        tpr_at_1_fpr=rate,
    )


def density_inference(
    synthetic: Float[np.ndarray, "synthetic dim"],
    train: Float[np.ndarray, "train dim"],
    held_out: Float[np.ndarray, "held_out dim"],
    train_patients: Sequence[str],
    held_out_patients: Sequence[str],
) -> MembershipInference | None:
    """The density-ratio attack: a member lies where synthetic samples are too frequent.

    DOMIAS (van Breugel et al. 2023, arXiv 2302.12580): the score is p_synthetic / p_reference. The
    reference is a random half of the held-out patients, whom the attack leaves out, so that members
    and others are exchangeable in a set that reveals nothing. Densities are those of Gaussian
    kernels (Scott's width) in the whitened principal components of synthetic and reference samples.

    Args:
        synthetic: Features of the synthetic radiographs.
        train: Features of the training radiographs.
        held_out: Features of the held-out radiographs.
        train_patients: Pseudonym of each training radiograph's patient.
        held_out_patients: Pseudonym of each held-out radiograph's patient.

    Returns:
        The attack's success; None with fewer than 100 held-out patients.
    """
    names = np.array(held_out_patients)
    people = np.unique(names)
    if len(people) < FEWEST_HELD_OUT:
        return None
    half = np.random.default_rng(0).permutation(people)[: len(people) // 2]
    is_reference = np.isin(names, half)
    known = [x.astype(np.float64) for x in (synthetic, held_out[is_reference])]
    count = min(_DIMENSIONS, synthetic.shape[1])
    axes = PCA(count, whiten=True, svd_solver="full").fit(np.concatenate(known))
    of_synthetic, of_reference = (
        KernelDensity(bandwidth=len(x) ** (-1 / (count + 4))).fit(axes.transform(x)) for x in known
    )

    def negative_score(features: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
        points = axes.transform(features)
        return of_reference.score_samples(points) - of_synthetic.score_samples(points)

    return membership_inference(
        negative_score(train),
        negative_score(held_out[~is_reference]),
        train_patients,
        names[~is_reference].tolist(),
    )


def strongest(*attacks: MembershipInference | None) -> MembershipInference:
    """The attack with the smallest p-value, corrected for the number of attacks (Bonferroni).

    Attacks that were not possible are None and do not count.
    """
    possible = [attack for attack in attacks if attack]
    best = min(possible, key=lambda attack: attack.p_value)
    return replace(best, p_value=min(1.0, len(possible) * best.p_value))
