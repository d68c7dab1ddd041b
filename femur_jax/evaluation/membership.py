"""Membership inference: does a synthetic set reveal who was in the training set?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, mannwhitneyu

from femur_jax.evaluation.statistics import Interval, patient_scores, roc_auc

FEWEST_HELD_OUT = 100
"""Fewest held-out patients among whom a rate of 1% can be seen."""


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
        train: Distance of each training radiograph from the nearest synthetic one.
        held_out: Distance of each held-out radiograph from the nearest synthetic one.
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
