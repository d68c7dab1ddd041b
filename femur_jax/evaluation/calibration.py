"""Do predicted probabilities agree with outcomes?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss

from femur_jax.evaluation.statistics import PatientScores


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


@dataclass(frozen=True)
class Platt:
    """A logistic curve from a classifier's scores to probabilities, fitted to other patients.

    The probabilities hold where positive patients are as frequent as among those patients.

    Attributes:
        slope: Factor of the score, not below 0.
        intercept: Logit of the probability at a score of 0.
    """

    slope: float
    intercept: float

    @classmethod
    def fitted(cls, patients: PatientScores) -> "Platt":
        """The most likely curve, with Platt's targets in place of 0 and 1.

        The targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) keep the curve finite where the scores
        separate the classes (Platt 1999, Probabilistic Outputs for Support Vector Machines,
        equation 5). A classifier that is wrong more often than right gets a slope of 0: every
        patient has the share of positives as probability.
        """
        score, positive = patients.score, patients.positive
        above, below = int(positive.sum()), int((~positive).sum())
        target = np.where(positive, (above + 1) / (above + 2), 1 / (below + 2))
        middle, spread = score.mean(), score.std() or 1.0
        standard = (score - middle) / spread

        def loss(curve: np.ndarray) -> tuple[float, np.ndarray]:
            value = curve[0] * standard + curve[1]
            error = expit(value) - target
            gradient = np.array([(error * standard).mean(), error.mean()])
            return float((np.logaddexp(0, value) - target * value).mean()), gradient

        solution = minimize(
            loss, np.zeros(2), jac=True, bounds=[(0, None), (None, None)], options={"ftol": 1e-12}
        ).x
        return cls(float(solution[0] / spread), float(solution[1] - solution[0] * middle / spread))

    def __call__(self, score: float) -> float:
        """The probability of a patient with a score."""
        return float(expit(self.slope * score + self.intercept))


def left_out_probabilities(patients: PatientScores) -> Float[np.ndarray, " patient"]:
    """The probability of each patient by the curve that all others determine."""
    score, positive = patients.score, patients.positive
    probability = np.empty(len(score))
    for n in range(len(score)):
        others = np.arange(len(score)) != n
        probability[n] = Platt.fitted(PatientScores(score[others], positive[others]))(score[n])
    return probability


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
