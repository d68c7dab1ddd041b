"""Do predicted probabilities agree with outcomes?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss


@dataclass(frozen=True)
class ReliabilityBin:
    """Patients of similar predicted probability.

    Attributes:
        predicted: Mean predicted probability.
        observed: Share of positive patients.
        low, high: 95% Wilson interval of `observed`.
        patients: Number of patients.
    """

    predicted: float
    observed: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True)
class Calibration:
    """Agreement of predictions and outcomes.

    Attributes:
        error: Expected calibration error, see `expected_calibration_error`.
        chance_error: Mean error if the predictions were true: with few patients it is above zero
            for a perfect classifier, too.
        brier: Mean squared difference of prediction and outcome.
        bins: The reliability diagram, from the smallest prediction to the greatest.
    """

    error: float
    chance_error: float
    brier: float
    bins: list[ReliabilityBin]


def probability(
    score: Float[np.ndarray, " patient"], *, trained_share: float, true_share: float
) -> Float[np.ndarray, " patient"]:
    """Probabilities from logits of a classifier trained on another share of positives.

    Classes that are drawn more often in training than they occur shift the logit by a constant,
    the difference of the log odds, which is subtracted here (Saerens et al. 2002, equation 4).

    Args:
        score: Logits of the classifier.
        trained_share: Share of the positive class in training, in (0, 1).
        true_share: Share of the positive class where the classifier is used.
    """
    return expit(score + logit(true_share) - logit(trained_share))


def expected_calibration_error(
    predicted: Float[np.ndarray, " patient"],
    positive: Bool[np.ndarray, " patient"],
    bins: int = 10,
) -> float:
    """Mean over patients of |observed share - mean prediction| of the patient's bin.

    Bins hold equally many patients, or nearly where predictions are equal (Nguyen and O'Connor
    2015, arXiv 1508.05154): with bins of equal width most patients of a rare disease would share
    one.
    """
    gaps = [
        len(members) * abs(positive[members].mean() - predicted[members].mean())
        for members in _bins(predicted, bins)
    ]
    return float(sum(gaps) / len(predicted))


def calibration(
    predicted: Float[np.ndarray, " patient"],
    positive: Bool[np.ndarray, " patient"],
    *,
    bins: int = 10,
    seed: int = 0,
    resamples: int = 500,
) -> Calibration:
    """Compares predicted probabilities with outcomes, in bins of equally many patients."""
    rng = np.random.default_rng(seed)
    outcomes = rng.random((resamples, len(predicted))) < predicted
    rows = []
    for members in _bins(predicted, bins):
        count = int(positive[members].sum())
        ends = binomtest(count, len(members)).proportion_ci(method="wilson")
        rows.append(
            ReliabilityBin(
                predicted=float(predicted[members].mean()),
                observed=count / len(members),
                low=float(ends.low),
                high=float(ends.high),
                patients=len(members),
            )
        )
    return Calibration(
        error=expected_calibration_error(predicted, positive, bins),
        chance_error=float(
            np.mean([expected_calibration_error(predicted, drawn, bins) for drawn in outcomes])
        ),
        brier=float(brier_score_loss(positive, predicted)),
        bins=rows,
    )


def _bins(predicted: Float[np.ndarray, " patient"], bins: int) -> list[np.ndarray]:
    """Positions of the patients of each bin, in the order of their predictions.

    Patients with one prediction share a bin, since the order within it would be arbitrary.
    """
    order = np.argsort(predicted, kind="stable")
    starts = [part[0] for part in np.array_split(np.arange(len(order)), bins) if part.size]
    # A bin starts at the first of equal predictions, and bins that then start together are one.
    cuts = np.unique(np.searchsorted(predicted[order], predicted[order][starts]))[1:]
    return np.split(order, cuts)
