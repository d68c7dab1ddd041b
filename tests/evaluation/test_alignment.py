"""The coarse search and shifts against brute force by scipy and numpy, and fits to known maps."""

from itertools import product

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from femur_jax.evaluation import alignment
from femur_jax.evaluation.alignment import SIDE, banded, fitted_distances, shifted_distances

HALF = SIDE // 2


def test_the_coarse_search_agrees_with_brute_force(pictures):
    """scipy's affine maps of the pictures at half their side, one pose and one pair at a time."""
    bands = banded(np.concatenate([pictures["test"][:1], pictures["train"][:2]]).astype(float))
    found, poses = alignment._search(bands[:1], bands[1:])
    query, *references = bands.reshape(3, HALF, 2, HALF, 2).mean((2, 4))
    middle = np.full(2, (HALF - 1) / 2)
    expected = np.full((2, len(alignment._poses()[1])), -1.0)
    for pose, affine in enumerate(alignment._poses()[1].astype(float)):
        matrix, shift = affine[:, :2], affine[:, 2] / 2
        offset = middle + shift - matrix @ middle
        view = affine_transform(query, matrix, offset, order=1, cval=np.nan)
        # Neither rounds at the border in the same way, so it is left out where it matters.
        inside = np.isfinite(view)
        for n, reference in enumerate(references):
            a, b = view[inside], reference[inside]
            expected[n, pose] = a @ b / np.sqrt((a @ a) * (b @ b))
    np.testing.assert_allclose(found[0], expected.max(axis=1), atol=2e-3)
    np.testing.assert_allclose(expected[[0, 1], poses[0]], found[0], atol=2e-3)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_fit_lays_a_distorted_picture_upon_its_original(pictures, is_mirrored):
    """Rotation, stretch and shift at once, each too far for any pose of the coarse search alone."""
    train = pictures["train"][:20].astype(float)
    matrix = np.array([[1.06, 0.12], [-0.05, 0.93]])
    middle = np.full(2, (SIDE - 1) / 2)
    distorted = np.stack(
        [
            affine_transform(
                x[:, ::-1] if is_mirrored else x,
                matrix,
                middle - matrix @ middle + 1.4,
                order=1,
                mode="nearest",
            )
            for x in train[:8]
        ]
    )
    coarse = alignment._search(banded(distorted), banded(train))[0]
    got = fitted_distances(distorted, train)
    np.testing.assert_array_equal(got.argmin(axis=1), np.arange(8))
    own = got[np.arange(8), np.arange(8)]
    others = np.sort(got, axis=1)[:, 1]
    assert np.median(own) < 0.7 * np.median(np.sqrt(2 - 2 * np.diag(coarse)))
    assert (own < 0.6 * others).all()


def test_equal_pictures_have_no_distance_and_ignored_pairs_an_infinite_one(pictures):
    train = pictures["train"][:6].astype(float)
    for distances in (fitted_distances, shifted_distances):
        got = distances(train, train)
        np.testing.assert_allclose(np.diag(got), 0, atol=2e-3)
        assert got[~np.eye(6, dtype=bool)].min() > 0.2
        ignored = distances(train, train, np.eye(6, dtype=bool))
        assert np.isinf(np.diag(ignored)).all()
        assert np.isfinite(ignored).sum() == 30


def test_shifted_distances_agree_with_their_definition(pictures):
    """numpy's own correlation of banded ranks at each shift, for some pairs."""
    train, queries = pictures["train"][:5].astype(float), pictures["test"][:3].astype(float)
    got = shifted_distances(queries, train, shift=1)
    banded_queries, banded_train = banded(queries).astype(float), banded(train).astype(float)
    for (q, query), (r, reference) in product(enumerate(banded_queries), enumerate(banded_train)):
        c = max(
            np.corrcoef(view[y : y + 46, x : x + 46].ravel(), reference[1:-1, 1:-1].ravel())[0, 1]
            for view in (query, query[:, ::-1])
            for y in range(3)
            for x in range(3)
        )
        assert got[q, r] == pytest.approx(np.sqrt(2 * (1 - c)), abs=1e-3)
