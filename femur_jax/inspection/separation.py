"""How well a single fact other than the fracture separates the classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedKFold

from femur_jax.evaluation.statistics import holm
from femur_jax.inspection.chance import LEVEL

TELLING_AUC = 0.6
"""AUC above which a single fact is flagged, unless chance explains it."""
_FOLDS = 5
_DRAWS, _CHUNK = 1999, 500


@dataclass(frozen=True)
class Separation:
    """How well one fact alone separates AFF from NFF, over patients.

    Attributes:
        fact: Key of `DatasetFacts.numbers` or `DatasetFacts.categories`.
        patients: Number of patients for whom the fact is known.
        auc: Area under the ROC curve, see `separation`; None where a class has too few patients.
        chance: 97.5th percentile of an uninformative fact's AUC.
        p: Probability of such an AUC or a greater one by chance, see `separation` and `flag`;
            None where the fact does not vary or `auc` is None.
        telling: Whether the AUC is above TELLING_AUC, and p below LEVEL after a correction for
            the number of facts.
    """

    fact: str
    patients: int
    auc: float | None
    chance: float | None
    p: float | None
    telling: bool = False


def separation(
    fact: str,
    atypical: Bool[np.ndarray, " patient"],
    values: Float[np.ndarray, " patient"] | Sequence[str],
) -> Separation:
    """Computes how well a fact separates atypical fractures from others.

    Numbers rank the patients directly, in the direction with the greater AUC. Words rank them by
    the share of atypical fractures among *other* patients with the word (those of the other four of
    five folds), since a rare word would fully determine the classes of the patients who have it. An
    AUC below 0.5 is then stated as 0.5. `chance` comes from the variance of the Mann-Whitney
    statistic without ties, (m + n + 1) / (12 m n) (Mann and Whitney, Ann. Math. Stat. 18, 1947).
    `p` is (1 + number as great) / (1 + number drawn) among random assignments of the values.

    Args:
        fact: Name of the fact.
        atypical: Label of each patient, true for AFF.
        values: Number or word of each patient.
    """
    positives = int(np.sum(atypical))
    negatives = len(atypical) - positives
    if min(positives, negatives) < _FOLDS:
        return Separation(fact, len(atypical), None, None, None)
    rng = np.random.default_rng(0)
    is_number = isinstance(values, np.ndarray)
    ranked = rankdata(values) if is_number else np.unique(list(values), return_inverse=True)[1]
    aucs = []
    for first in range(0, _DRAWS + 1, _CHUNK):
        table = np.tile(ranked, (min(_CHUNK, _DRAWS + 1 - first), 1))
        if first:
            table = rng.permuted(table, axis=1)
        else:  # the first row is the dataset itself
            table[1:] = rng.permuted(table[1:], axis=1)
        ranks = table if is_number else rankdata(_shares(atypical, table), axis=1)
        below = ranks[:, atypical].sum(1) - positives * (positives + 1) / 2
        aucs.append(below / (positives * negatives))
    found = np.concatenate(aucs)
    found = np.maximum(found, 1 - found if is_number else 0.5)
    p = float(np.count_nonzero(found >= found[0] - 1e-12) / len(found))
    spread = math.sqrt((len(atypical) + 1) / (12 * positives * negatives))
    chance = min(1.0, 0.5 + 1.96 * spread)
    varies = bool(ranked.min() < ranked.max())
    return Separation(fact, len(atypical), float(found[0]), chance, p if varies else None)


def flag(separations: Sequence[Separation]) -> list[Separation]:
    """Corrects the p values for their number (see `statistics.holm`) and sets `telling`."""
    adjusted = iter(holm([s.p for s in separations if s.p is not None]))
    corrected = [replace(s, p=None if s.p is None else next(adjusted)) for s in separations]
    return [
        replace(s, telling=s.p is not None and s.p < LEVEL and (s.auc or 0) > TELLING_AUC)
        for s in corrected
    ]


def _shares(
    atypical: Bool[np.ndarray, " patient"], words: Int[np.ndarray, "draw patient"]
) -> Float[np.ndarray, "draw patient"]:
    """Share of AFF among the patients of the other folds with the same word, for each patient.

    One further patient with the average share is counted, so that a rare word has little weight.
    """
    shares = np.empty(words.shape)
    draws, number = len(words), int(words.max()) + 1
    cells = words + number * np.arange(draws)[:, None]
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    for others, held_out in folds.split(atypical, atypical):
        having, with_aff = (
            np.bincount(cells[:, group].ravel(), minlength=draws * number)
            for group in (others, others[atypical[others]])
        )
        share = (with_aff + atypical[others].mean()) / (having + 1)
        shares[:, held_out] = share[cells[:, held_out]]
    return shares
