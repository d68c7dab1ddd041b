"""Compares the areas under the ROC curves of several readers, after Obuchowski and Rockette.

Readers and cases are random. The symbols are those of Hillis 2014, "A marginal-mean ANOVA approach
for analyzing multireader multicase radiological imaging data", Statistics in Medicine 33: t is the
number of tests (modalities), r the number of readers, MS a mean square, Cov2 the mean covariance of
two readers of the same test, and Cov3 that of two readers of different tests.
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from femur_jax.evaluation.statistics import Interval, area, delong


def reader_areas(
    ratings: Float[np.ndarray, "reading case"], positive: Bool[np.ndarray, " case"]
) -> tuple[Float[np.ndarray, " reading"], Float[np.ndarray, "reading reading"]]:
    """Empirical areas under the ROC curve and their covariances (DeLong et al. 1988, eqs. 4-6).

    Args:
        ratings: Ratings of the same cases, one row a reading (a reader with a test); higher
            means positive.
        positive: True where the case is positive.

    Returns:
        Areas; covariances, nan where a class has fewer than two cases.
    """
    if min(positive.sum(), (~positive).sum()) < 2:
        return area(ratings, positive), np.full((len(ratings),) * 2, np.nan)
    return delong(ratings, positive)


@dataclass(frozen=True)
class Comparison:
    """Comparison of the readers' mean areas between tests.

    Attributes:
        f: The F statistic.
        df1, df2: Degrees of freedom of the F statistic.
        p: P value of the hypothesis that all tests have equal areas.
        difference: Difference of the first two tests' mean areas, with its interval.
    """

    f: float
    df1: int
    df2: float
    p: float
    difference: Interval


def compare(
    areas: Float[np.ndarray, "test reader"],
    covariances: Float[np.ndarray, "test reader test reader"],
    confidence: float = 0.95,
) -> Comparison:
    """Tests whether t >= 2 tests have equal mean areas, for r >= 2 readers who read all tests.

    The covariances between tests with different cases are zero (Hillis 2014, section 5).
    """
    t, r = areas.shape
    ms_t, ms_tr = _mean_squares(areas)
    same_reader, same_test = np.eye(r, dtype=bool), np.eye(t, dtype=bool)
    by_pair = covariances.transpose(0, 2, 1, 3)[..., ~same_reader]  # test, test, pair of readers
    cov2, cov3 = by_pair[same_test].mean(), by_pair[~same_test].mean()
    denominator = ms_tr + max(r * (cov2 - cov3), 0.0)
    df1 = t - 1
    df2 = denominator**2 / (ms_tr**2 / (df1 * (r - 1))) if ms_tr > 0 else np.inf
    f = ms_t / denominator if denominator > 0 else np.nan  # undefined where nothing varies
    half = scipy.stats.t.ppf((1 + confidence) / 2, df2) * np.sqrt(2 / r * denominator)
    difference = areas[0].mean() - areas[1].mean()
    return Comparison(
        f=float(f),
        df1=df1,
        df2=float(df2),
        p=float(scipy.stats.f.sf(f, df1, df2)),
        difference=Interval(float(difference), float(difference - half), float(difference + half)),
    )


def _mean_squares(areas: Float[np.ndarray, "test reader"]) -> tuple[float, float]:
    """MS(T) and MS(T*R)."""
    t, r = areas.shape
    by_test = areas.mean(axis=1, keepdims=True)
    by_reader = areas.mean(axis=0, keepdims=True)
    rest = areas - by_test - by_reader + areas.mean()
    ms_t = r * np.sum((by_test - areas.mean()) ** 2) / (t - 1)
    return float(ms_t), float(np.sum(rest**2) / ((t - 1) * (r - 1)))


@dataclass(frozen=True)
class MeanArea:
    """Mean area of the readers of one test.

    Attributes:
        interval: The mean with its interval, which is clipped to [0, 1].
        error: Standard error of the mean.
        df: Degrees of freedom of the error.
    """

    interval: Interval
    error: float
    df: float

    def p_above(self, area: float) -> float:
        """One-sided p value of the hypothesis that the mean area is at most this."""
        if self.error == 0:
            return float("nan")
        return float(scipy.stats.t.sf((self.interval.value - area) / self.error, self.df))


def mean_area(
    areas: Float[np.ndarray, " reader"],
    covariances: Float[np.ndarray, "reader reader"],
    confidence: float = 0.95,
) -> MeanArea:
    """Mean area of r >= 2 readers of one test, with an error for random readers and cases."""
    r = len(areas)
    ms_r = areas.var(ddof=1)
    cov2 = covariances[~np.eye(r, dtype=bool)].mean()
    scale = ms_r + max(r * cov2, 0.0)
    mean = float(areas.mean())
    if scale == 0:  # every reader is perfect, so nothing varies
        return MeanArea(Interval(mean, mean, mean), 0.0, np.inf)
    df2 = float(scale**2 / (ms_r**2 / (r - 1)) if ms_r > 0 else np.inf)
    error = float(np.sqrt(scale / r))
    half = scipy.stats.t.ppf((1 + confidence) / 2, df2) * error
    interval = Interval(mean, float(max(0, mean - half)), float(min(1, mean + half)))
    return MeanArea(interval, error, df2)
