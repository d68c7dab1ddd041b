"""Are synthetic samples within the real ones' manifold, and do they cover it?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from femur_jax.evaluation.neighbours import exact_distances, k_nearest, squared_distances

_DOUBTFUL = 1e-5  # of |x|^2 + |y|^2: more than float32 products are wrong by


@dataclass(frozen=True)
class Manifold:
    """Fidelity (precision, density) and diversity (recall, coverage).

    A ball about a sample reaches to its k-th nearest neighbour in its own set.

    Attributes:
        precision: Share of synthetic samples within any real ball (Kynkaanniemi et al. 2019, arXiv
            1904.06991, equation 1).
        recall: Share of real samples within any synthetic ball.
        density: Mean number of real balls that a synthetic sample lies in, over k; may exceed 1
            (Naeem et al. 2020, arXiv 2002.09797, equation 4).
        coverage: Share of real balls that hold a synthetic sample (equation 5). For equal
            distributions it is 1 - 2^-k in large sets.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(
    real: Float[np.ndarray, "real dim"], synthetic: Float[np.ndarray, "synthetic dim"], k: int = 5
) -> Manifold:
    """Precision, recall, density and coverage.

    Distances are computed in float32, and again in float64 where they come close to a radius.

    Args:
        real: Features of real radiographs.
        synthetic: Of synthetic ones.
        k: Neighbours that a ball reaches to: 5 in Naeem et al., 3 in Kynkaanniemi et al.

    Raises:
        UserError: A set has no k + 1 samples.
    """
    r_real, r_synthetic = (
        k_nearest(x, x, k, exclude=np.arange(len(x))).distance[:, -1] for x in (real, synthetic)
    )
    balls = np.empty(len(synthetic), int)  # real balls that hold each synthetic sample
    covered = np.zeros(len(real), bool)
    recalled = np.zeros(len(real), bool)
    norm_real, norm_synthetic = (np.sum((x - real.mean(0)) ** 2, axis=1) for x in (real, synthetic))
    for rows, squared in squared_distances(synthetic, real):
        doubt = _DOUBTFUL * (norm_synthetic[rows, None] + norm_real).astype(np.float32)

        def within(
            radius: Float[np.ndarray, "_ _"],
            rows: slice = rows,
            squared: Float[np.ndarray, "_ _"] = squared,
            doubt: Float[np.ndarray, "_ _"] = doubt,
        ) -> Bool[np.ndarray, "_ _"]:
            gap = squared - (radius**2).astype(np.float32)
            inside = gap <= 0
            y, x = np.nonzero(abs(gap) <= doubt)
            exact = _pair_distances(synthetic[rows], real, y, x)
            inside[y, x] = exact <= np.broadcast_to(radius, squared.shape)[y, x]
            return inside

        in_real = within(r_real[None])
        balls[rows] = in_real.sum(axis=1)
        covered |= in_real.any(axis=0)
        recalled |= within(r_synthetic[rows, None]).any(axis=0)
    return Manifold(
        precision=float(np.mean(balls > 0)),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def _pair_distances(
    queries: Float[np.ndarray, "query dim"],
    references: Float[np.ndarray, "reference dim"],
    q: Int[np.ndarray, " pair"],
    r: Int[np.ndarray, " pair"],
) -> Float[np.ndarray, " pair"]:
    return exact_distances(queries[q], references, r[:, None])[:, 0]
