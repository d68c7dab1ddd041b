import numpy as np

from femur_jax.diffusion.patches import (
    NO_LABEL,
    Place,
    conditions,
    mask_and_coordinates,
    to_unit,
    wide_mask,
)


def place(**changes):
    values = {
        "origin": [[0, 0]],
        "level_size": [[10, 20]],
        "size": [[10, 20]],
        "level": [0],
        "label": [0],
        "spacing_mm": [0.2],
    } | changes
    dtypes = {"spacing_mm": np.float32}
    return Place(**{k: np.array(v, dtypes.get(k, np.int32)) for k, v in values.items()})


def test_grey_values_become_minus_one_to_one():
    np.testing.assert_allclose(to_unit(np.array([0, 32767, 65535])), [-1, 0, 1], atol=2e-5)


def test_mask_ends_where_the_radiograph_ends():
    mask, _ = mask_and_coordinates(place(origin=[[4, 8]]), 16)
    expected = np.zeros((16, 16))
    expected[: 10 - 4, : 20 - 8] = 1
    np.testing.assert_array_equal(mask[0, :, :, 0], expected)


def test_coordinates_are_true_to_the_aspect_ratio():
    _, coordinates = mask_and_coordinates(place(origin=[[2, 4]]), 8)
    for row, column in ((0, 0), (5, 7)):
        y, x = 2 + row + 0.5, 4 + column + 0.5
        expected = ((y - 5) / 10, (x - 10) / 10)  # half of the longer side is 10 pixels
        np.testing.assert_allclose(coordinates[0, row, column], expected, rtol=1e-6)


def test_conditions_tell_everything_apart():
    noise = np.array([0.1], np.float32)
    base = conditions(place(), noise)[0]
    for changes in (
        {"label": [1]},
        {"label": [NO_LABEL]},
        {"level": [1]},
        {"size": [[20, 20]]},
        {"size": [[10, 40]]},
        {"spacing_mm": [0.4]},
        {"spacing_mm": [0.0]},
        {"mirrored": [1]},
    ):
        assert not np.allclose(base, conditions(place(**changes), noise)[0])
    assert not np.allclose(base, conditions(place(), np.array([0.5], np.float32))[0])
    assert np.isfinite(conditions(place(spacing_mm=[0.0]), np.zeros(1, np.float32))).all()


def test_the_wide_mask_ends_where_the_radiograph_ends():
    # Level 3 of 40 x 90 pixels: its wide context is cut from level 1, of 10 x 23.
    found = wide_mask(place(origin=[[24, 60]], level_size=[[40, 90]], level=[3]), 16)
    top, left = (24 + 8) // 4 - 8, (60 + 8) // 4 - 8
    expected = np.zeros((16, 16))
    expected[max(-top, 0) : 10 - top, max(-left, 0) : 23 - left] = 1
    np.testing.assert_array_equal(found[0, :, :, 0], expected)
    # Level 1 of 10 x 20: level 0, of 5 x 10.
    found = wide_mask(place(origin=[[0, 4]], level=[1]), 16)
    expected = np.zeros((16, 16))
    expected[4:9, 2:12] = 1
    np.testing.assert_array_equal(found[0, :, :, 0], expected)
