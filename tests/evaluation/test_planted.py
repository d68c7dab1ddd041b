"""Changes of planted copies, each against the place where a bright point must come to lie."""

import numpy as np
import pytest

from femur_jax.evaluation.features import overview
from femur_jax.evaluation.planted import (
    CHANGES,
    UNCHANGED,
    bent,
    joined,
    planted_copies,
    shifted,
    turned,
)
from femur_jax.evaluation.radiograph_set import of_split

POINT = np.array([30, 60])
MIDDLE = np.array([40, 45])


def picture() -> np.ndarray:
    """A bright spot of 5 x 5 pixels before black."""
    image = np.zeros((81, 91), np.float32)
    image[28:33, 58:63] = 1000
    return image


def centre(image: np.ndarray) -> np.ndarray:
    """The centre of mass."""
    return (np.indices(image.shape) * image).sum((1, 2)) / image.sum()


@pytest.mark.parametrize("degrees", [5.0, 10.0])
def test_a_rotation_keeps_distances_from_the_middle(degrees):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    got = centre(turned(picture(), degrees))
    np.testing.assert_allclose(got, MIDDLE + turn @ (POINT - MIDDLE), atol=0.05)


def test_a_zoom_and_a_shift_move_the_point():
    got = turned(picture(), zoom=1.3)
    np.testing.assert_allclose(centre(got), MIDDLE + 1.3 * (POINT - MIDDLE), atol=0.05)
    assert got.sum() == pytest.approx(1.3**2 * picture().sum(), rel=0.05)
    np.testing.assert_allclose(centre(shifted(picture(), 0.1)), POINT + 9.1, atol=1e-3)


def test_bending_moves_points_by_the_stated_share():
    rng = np.random.default_rng(0)
    columns = np.tile(np.arange(91, dtype=np.float32), (81, 1))
    moves = [(bent(columns, 0.02, rng) - columns)[10:-10, 10:-10] for _ in range(20)]
    assert np.std(moves) == pytest.approx(0.02 * 91, rel=0.15)


@pytest.mark.parametrize("axis", [0, 1])
def test_half_of_another_picture(axis):
    one, other = np.zeros((6, 7), np.float32), np.ones((6, 7), np.float32)
    got = joined(one, other, axis)
    assert got.shape == one.shape
    assert (got.take(0, axis) == 0).all() and (got.take(-1, axis) == 1).all()
    assert got.sum() == (21 if axis == 0 else 24)


def test_each_change_is_planted_with_the_same_radiographs(dataset):
    train = of_split([dataset], "train").thinned(8)
    planted = planted_copies(train)
    assert list(planted) == list(CHANGES)
    again = planted_copies(train)
    for name, images in planted.items():
        for image, other, original in zip(images, again[name], train.members, strict=True):
            np.testing.assert_array_equal(image, other)
            assert image.dtype == np.uint16 and image.shape == overview(*original).shape
            assert np.array_equal(image, overview(*original)) == (name == UNCHANGED)
