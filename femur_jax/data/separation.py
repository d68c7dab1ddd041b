"""How well a single fact, which is no fracture, tells the classes apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

TELLING_AUC = 0.6
"""A fact that alone tells the classes apart so well is flagged."""
_FOLDS = 5


@dataclass(frozen=True)
class Separation:
    """How well one fact alone tells AFF from NFF, over patients.

    Attributes:
        fact: Key of `Facts.numbers` or `Facts.categories`.
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
    the share of atypical fractures among *other* patients with it (by logistic regression, in
    five folds), for of its own patients any rare word tells all; an AUC below 0.5, where that
    does not help, is given as 0.5. `chance` comes from the
    variance of the Mann-Whitney statistic, (m + n + 1) / (12 m n), without ties.
    """
    positives = int(np.sum(atypical))
    negatives = len(atypical) - positives
    if min(positives, negatives) < _FOLDS:
        return Separation(fact, len(atypical), None, None, False)
    if isinstance(values, np.ndarray):
        auc = float(roc_auc_score(atypical, values))
        auc = max(auc, 1 - auc)
    else:
        shares = cross_val_predict(
            make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
            np.array(values, object)[:, None],
            atypical,
            cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=0),
            method="predict_proba",
        )
        auc = max(0.5, float(roc_auc_score(atypical, np.asarray(shares)[:, 1])))
    spread = math.sqrt((len(atypical) + 1) / (12 * positives * negatives))
    chance = min(1.0, 0.5 + 1.96 * spread)
    return Separation(fact, len(atypical), auc, chance, auc > TELLING_AUC)
