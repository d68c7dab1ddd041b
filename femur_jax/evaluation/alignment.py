"""Distances of pictures that are laid upon each other as well as possible.

Akbar, Wang and Eklund 2025 (arXiv 2305.07644) correlate each synthetic image with all training
images. Here the pixels' ranks are correlated, which do not change with window or gamma, in the band
of sizes that differs between patients: the broad shades of all femurs are alike, and noise is new
in each radiograph. A coarse search under rotation, zoom, mirroring and shifts finds candidates.
Gauss-Newton steps then fit an affine map to each, as in Evangelidis and Psarakis 2008 (IEEE TPAMI
30, 10). Pictures are compared where they overlap.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

SIDE = 48
"""Side in pixels of the pictures that are compared."""

_ANGLES = (-10.0, -5.0, 5.0, 10.0)  # degrees
_ZOOMS = (0.85, 1.0, 1.15, 1.3)
_ASPECT = 1.5  # usual height of a radiograph over its width, which the square hides
_BAND = (1.0, 4.0)  # standard deviations of the Gaussians whose difference is compared, pixels
_COARSE = SIDE // 2  # side of the coarse search's pictures in pixels
_REACH = 4  # greatest shift of the coarse search in its pixels
_WIDE = _COARSE + 2 * _REACH
_SHIFTS = list(product(range(2 * _REACH + 1), repeat=2))
_STEPS = 8
_BATCH = 256  # queries that are searched for at once, so that their correlations stay in the cache
_PAIRS = 256  # pairs that are fitted at once
_LITTLE = 1e-9

CANDIDATES = 3
"""References of each query to which an affine map is usually fitted."""


def fitted_distances(
    queries: Float[np.ndarray, "query side side"],
    references: Float[np.ndarray, "reference side side"],
    ignored: Bool[np.ndarray, "query reference"] | None = None,
    *,
    candidates: int = CANDIDATES,
) -> Float32[np.ndarray, "query reference"]:
    """Distances of pictures, those of each query's nearest references after a fit.

    Args:
        queries: Grey values of the pictures to look up, `SIDE` pixels square.
        references: Grey values of the pictures to look among.
        ignored: True for pairs that are not compared; their distance is infinite.
        candidates: Number of references of each query to which an affine map is fitted.

    Returns:
        sqrt(2 (1 - c)), where c is the greatest correlation: the Euclidean distance of standardised
        pictures, 0 for a copy, sqrt(2) for unrelated pictures.
    """
    q, r = banded(queries), banded(references)
    correlation, pose = _search(q, r)
    distance = _distance(correlation)
    if ignored is not None:
        distance[ignored] = np.inf
    count = min(candidates, len(r))
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    rows, columns = np.repeat(np.arange(len(q)), count), nearest.ravel()
    starts = _poses()[1][pose[rows, columns]]
    pictures = r[:, ::2, ::2].reshape(len(r), -1)
    known = distance[rows, columns]
    fitted = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), _PAIRS):
        pairs = slice(first, first + _PAIRS)
        fitted[pairs] = _fitted(q[rows[pairs]], pictures[columns[pairs]], starts[pairs])
    better = np.minimum(known, _distance(fitted))
    distance[rows, columns] = np.where(np.isinf(known), known, better)
    return distance


def shifted_distances(
    queries: Float[np.ndarray, "query height width"],
    references: Float[np.ndarray, "reference height width"],
    ignored: Bool[np.ndarray, "query reference"] | None = None,
    *,
    shift: int = 6,
) -> Float32[np.ndarray, "query reference"]:
    """Distances of pictures under mirroring and shifts alone, without a fit.

    Args:
        queries: Grey values of the pictures to look up.
        references: Grey values of the pictures to look among, of the same size.
        ignored: True for pairs that are not compared; their distance is infinite.
        shift: Greatest shift along each axis in pixels. All shifts share the interior.

    Returns:
        Distances as `fitted_distances` gives them.
    """
    height, width = references.shape[1] - 2 * shift, references.shape[2] - 2 * shift
    inner = _unit(banded(references)[:, shift : shift + height, shift : shift + width])
    symmetric, antisymmetric = _folded(inner)
    pictures = banded(queries)
    best = np.full((len(queries), len(references)), -1.0, np.float32)
    for y, x in product(range(2 * shift + 1), repeat=2):
        moved = _folded(_unit(pictures[:, y : y + height, x : x + width]))
        for rows in _blocks(len(queries)):
            correlation = abs(moved[1][rows] @ antisymmetric.T)
            correlation += moved[0][rows] @ symmetric.T
            np.maximum(best[rows], correlation, out=best[rows])
    result = _distance(best)
    if ignored is not None:
        result[ignored] = np.inf
    return result


def _unit(images: Float32[np.ndarray, "n height width"]) -> Float32[np.ndarray, "n height width"]:
    """Images with zero mean and unit norm; a constant picture is all zeros."""
    images = images - images.mean(axis=(1, 2), keepdims=True)
    return images / np.maximum(np.linalg.norm(images, axis=(1, 2), keepdims=True), 1e-9)


def _folded(
    images: Float32[np.ndarray, "n height width"],
) -> tuple[Float32[np.ndarray, "n pixel"], Float32[np.ndarray, "n pixel"]]:
    """The symmetric and the antisymmetric half of images of even width, flat.

    Of two images, with products s and a of their halves, s + a is the product of the images, and
    s - a that with one of them mirrored: both for the price of one.
    """
    half = images.shape[2] // 2
    left, right = images[:, :, :half], images[:, :, : half - 1 : -1]
    left, right = (np.float32(np.sqrt(0.5)) * x.reshape(len(images), -1) for x in (left, right))
    return left + right, left - right


def _blocks(count: int) -> Iterator[slice]:
    """Slices of so many queries, whose correlations stay in the cache."""
    return (slice(first, first + _BATCH) for first in range(0, count, _BATCH))


def banded(
    images: Float[np.ndarray, "n height width"],
) -> Float32[np.ndarray, "n height width"]:
    """Ranks of each image's pixels, between two scales."""
    ranks = rankdata(images.reshape(len(images), -1), axis=1)
    ranks /= ranks.shape[1]
    ranks = ranks.reshape(images.shape).astype(np.float32)
    fine, coarse = (gaussian_filter(ranks, (0, sigma, sigma)) for sigma in _BAND)
    return fine - coarse


def _distance(correlation: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    return np.sqrt(2 * np.maximum(1 - correlation, 0))


def _search(
    queries: Float32[np.ndarray, "query side side"],
    references: Float32[np.ndarray, "reference side side"],
) -> tuple[Float32[np.ndarray, "query reference"], Int[np.ndarray, "query reference"]]:
    """The greatest correlation over all poses, and the pose, see `_poses`."""
    q, r = (x.reshape(len(x), _COARSE, 2, _COARSE, 2).mean((2, 4)) for x in (queries, references))
    symmetric, antisymmetric = _folded(r)
    squared = r.reshape(len(r), -1) ** 2
    best = np.full((len(q), len(r)), -1.0, np.float32)
    pose = np.zeros(best.shape, np.int32)
    turns, maps = _poses()
    windows = [np.s_[..., y : y + _COARSE, x : x + _COARSE] for y, x in _SHIFTS]
    for turn, weights in enumerate(turns):
        views = (q.reshape(len(q), -1) @ weights.T).reshape(-1, _WIDE, _WIDE)
        inside = weights.sum(axis=1).reshape(_WIDE, _WIDE)
        seen = np.stack([inside[window] for window in windows])
        scale, mirrored_scale = (
            1 / np.sqrt(s.reshape(len(s), -1) @ squared.T + _LITTLE)
            for s in (seen, seen[..., ::-1])
        )
        for shift, window in enumerate(windows):
            view = views[window]
            view = view / np.sqrt(np.einsum("qyx,qyx->q", view, view) + _LITTLE)[:, None, None]
            even, odd = _folded(view)
            number = turn * len(windows) + shift
            for rows in _blocks(len(q)):
                of_even, of_odd = even[rows] @ symmetric.T, odd[rows] @ antisymmetric.T
                for correlation, n in (
                    ((of_even + of_odd) * scale[shift], number),
                    ((of_even - of_odd) * mirrored_scale[shift], number + len(maps) // 2),
                ):
                    is_better = correlation > best[rows]
                    np.copyto(best[rows], correlation, where=is_better)
                    np.copyto(pose[rows], n, where=is_better)
    return best, pose


@cache
def _poses() -> tuple[Float32[np.ndarray, "turn wide pixel"], Float32[np.ndarray, "pose 2 3"]]:
    """Weights that turn and zoom a coarse picture, and the affine map of each pose.

    There is a pose for each turn and shift, then one for each of these with the reference mirrored.
    A map takes a reference's pixels to the query's, with both counted from the middle of `SIDE`
    pixels.
    """
    stretch = np.diag([_ASPECT, 1.0])
    weights, maps = [], []
    for angle, zoom in [*product(_ANGLES, (1.0,)), *product((0.0,), _ZOOMS)]:
        sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        turn = np.linalg.inv(stretch) @ np.array([[cosine, -sine], [sine, cosine]]) @ stretch
        turn = turn * zoom
        weights.append(_resampling(turn))
        maps += [np.column_stack([turn, turn @ (2.0 * (np.array(s) - _REACH))]) for s in _SHIFTS]
    maps = np.stack(maps)
    mirrored = maps * [1, -1, 1]
    return np.stack(weights), np.concatenate([maps, mirrored]).astype(np.float32)


def _resampling(turn: Float[np.ndarray, "2 2"]) -> Float32[np.ndarray, "wide pixel"]:
    """Bilinear weights of a picture's pixels in the picture turned about its middle.

    The result has `_REACH` more pixels at each edge; pixels that lie outside the picture get zeros.
    """
    grid = np.indices((_WIDE, _WIDE)).reshape(2, -1) - (_WIDE - 1) / 2
    source = turn @ grid + (_COARSE - 1) / 2
    inside = ((source > -1e-9) & (source < _COARSE - 1 + 1e-9)).all(axis=0)
    corner = np.clip(np.floor(source + 1e-9), 0, _COARSE - 2).astype(int)
    down, right = source - corner
    weights = np.zeros((_WIDE**2, _COARSE**2), np.float32)
    rows = np.flatnonzero(inside)
    for y, x in product((0, 1), repeat=2):
        columns = (corner[0] + y) * _COARSE + corner[1] + x
        weights[rows, columns[rows]] = (abs(1 - y - down) * abs(1 - x - right))[rows]
    return weights


def _fitted(
    queries: Float32[np.ndarray, "pair side side"],
    references: Float32[np.ndarray, "pair pixel"],
    starts: Float32[np.ndarray, "pair 2 3"],
) -> Float32[np.ndarray, " pair"]:
    """The greatest correlation that an affine map reaches, in Gauss-Newton steps from a start.

    References hold every second pixel of every second row.
    """
    points = np.indices((_COARSE, _COARSE)).reshape(2, -1) * 2.0 - (SIDE - 1) / 2
    points = np.concatenate([points, np.ones((1, points.shape[1]))]).astype(np.float32)
    flat = queries.reshape(len(queries), -1)
    maps = starts
    best = np.full(len(queries), -1.0, np.float32)
    for _ in range(_STEPS):
        position = maps @ points + np.float32((SIDE - 1) / 2)
        inside = ((position >= 0) & (position <= SIDE - 1)).all(axis=1)
        corner = np.clip(np.floor(position), 0, SIDE - 2)
        y, x = (position - corner).transpose(1, 0, 2)
        first = (corner[:, 0] * SIDE + corner[:, 1]).astype(int)
        a, b, c, d = (
            np.take_along_axis(flat, first + step, axis=1) for step in (0, 1, SIDE, SIDE + 1)
        )
        value = inside * ((1 - y) * ((1 - x) * a + x * b) + y * ((1 - x) * c + x * d))
        down = inside * ((1 - x) * (c - a) + x * (d - b))
        right = inside * ((1 - y) * (b - a) + y * (d - c))
        reference = inside * references
        norm, of_reference = (np.sqrt((v**2).sum(axis=1) + _LITTLE) for v in (value, reference))
        correlation = (value * reference).sum(axis=1) / (norm * of_reference)
        # A map that leaves less than half of the picture to compare shows nothing.
        enough = inside.mean(axis=1) >= 0.5
        best = np.where(enough, np.maximum(best, correlation), best)
        residual = reference * (norm / of_reference)[:, None] - value
        slope = np.concatenate([down[:, None] * points, right[:, None] * points], axis=1)
        normal = slope @ slope.transpose(0, 2, 1)
        normal += np.eye(6, dtype=np.float32) * (0.01 * normal + _LITTLE)
        change = np.linalg.solve(normal, slope @ residual[:, :, None])
        maps = maps + change.reshape(-1, 2, 3)
    return best
