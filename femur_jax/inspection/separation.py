"""How well a single fact other than the fracture separates the classes."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

TELLING_AUC = 0.6
"""AUC above which a single fact is flagged."""
_FOLDS = 5


@dataclass(frozen=True)
class Separation:
    """How well one fact alone separates AFF from NFF, over patients.

    Attributes:
        fact: Key of `DatasetFacts.numbers` or `DatasetFacts.categories`.
        patients: Number of patients for whom the fact is known.
        auc: Area under the ROC curve, see `separation`; None where a class has too few patients.
        chance: 97.5th percentile of an uninformative fact's AUC.
        telling: Whether the AUC is above TELLING_AUC.
    """

    fact: str
    patients: int
    auc: float | None
    chance: float | None
    telling: bool


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

    Args:
        fact: Name of the fact.
        atypical: Label of each patient, true for AFF.
        values: Number or word of each patient.
    """
    positives = int(np.sum(atypical))
    negatives = len(atypical) - positives
    if min(positives, negatives) < _FOLDS:
        return Separation(fact, len(atypical), None, None, False)
    if isinstance(values, np.ndarray):
        auc = float(roc_auc_score(atypical, values))
        auc = max(auc, 1 - auc)
    else:
        auc = max(0.5, float(roc_auc_score(atypical, _shares(atypical, values))))
    spread = math.sqrt((len(atypical) + 1) / (12 * positives * negatives))
    chance = min(1.0, 0.5 + 1.96 * spread)
    return Separation(fact, len(atypical), auc, chance, auc > TELLING_AUC)


def _shares(
    atypical: Bool[np.ndarray, " patient"], words: Sequence[str]
) -> Float[np.ndarray, " patient"]:
    """Share of AFF among the patients of the other folds with the same word, for each patient.

    One further patient with the average share is counted, so that a rare word has little weight.
    """
    shares = np.empty(len(words))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    for others, held_out in folds.split(words, atypical):
        having = Counter(words[n] for n in others)
        with_aff = Counter(words[n] for n in others if atypical[n])
        average = atypical[others].mean()
        for n in held_out:
            shares[n] = (with_aff[words[n]] + average) / (having[words[n]] + 1)
    return shares
