"""How well a single fact, which is no fracture, tells the classes apart."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

TELLING_AUC = 0.6
"""A fact that alone tells the classes apart so well is flagged."""
_FOLDS = 5


@dataclass(frozen=True)
class Separation:
    """How well one fact alone tells AFF from NFF, over patients.

    Attributes:
        fact: Key of `DatasetFacts.numbers` or `DatasetFacts.categories`.
        patients: Those of whom it is known.
        auc: Area under the ROC curve, see `separation`; None where a class has too few.
        chance: 97.5th percentile of the AUC of a fact that tells nothing.
        telling: The AUC is above TELLING_AUC.
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
    """How well a fact tells atypical fractures from others.

    A number ranks the patients as it is, in the direction that tells more. A word ranks them by
    the share of atypical fractures among *other* patients with it (those of the four other
    folds of five), for of its own patients any rare word tells all; an AUC below 0.5, where that
    does not help, is given as 0.5. `chance` comes from the variance of the Mann-Whitney
    statistic without ties, (m + n + 1) / (12 m n) (Mann and Whitney, Ann. Math. Stat. 18, 1947).

    Args:
        fact: Its name.
        atypical: Of each patient whether the fracture is.
        values: Of each patient the number, or the word.
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
    """For each patient the share of AFF among those of the other folds who have the word.

    One more patient with the average share is counted, so that a rare word says little.
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
