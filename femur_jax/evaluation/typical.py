"""Whether something is like the members of a set, judged by others that are like them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.covariance import LedoitWolf

SHARE = 0.01
"""Share of further members that a limit excludes."""


@dataclass(frozen=True)
class Typical:
    """An ellipsoid around a set.

    Attributes:
        mean: Mean of the set.
        precision: Inverse of its covariance, by Ledoit and Wolf (2004).
        limit: Greatest distance of a typical member (Mahalanobis). A further member exceeds it
            with a probability of SHARE, or of 1 / (n + 1) where n is below 99 others set it.
    """

    mean: list[float]
    precision: list[list[float]]
    limit: float

    @classmethod
    def fitted(
        cls, members: Float[np.ndarray, "n dim"], others: Float[np.ndarray, "m dim"]
    ) -> "Typical":
        """The ellipsoid of some members, whose size other members determine."""
        fit = LedoitWolf().fit(members)
        around = cls(fit.location_.tolist(), np.asarray(fit.get_precision()).tolist(), np.inf)
        distances = [around.distance(one) for one in others]
        return cls(around.mean, around.precision, greatest(distances))

    def distance(self, one: Float[np.ndarray, " dim"]) -> float:
        """Mahalanobis distance from the mean."""
        apart = one - np.array(self.mean)
        return float(np.sqrt(apart @ np.array(self.precision) @ apart))

    def includes(self, one: Float[np.ndarray, " dim"]) -> bool:
        """Whether something is as near to the mean as a typical member."""
        return self.distance(one) <= self.limit


def greatest(values: list[float]) -> float:
    """The value that a further one exceeds with a probability of SHARE; see `Typical.limit`."""
    return float(np.percentile(values, 100 * (1 - SHARE), method="weibull"))
