"""Tests of the adaptive grid against the functions that it draws."""

import numpy as np
import pytest

from femur_jax.phantom.refine import coarse_grid, refine


def draw(function, shape, step, tolerance=0.01, watched=False):
    """Adaptive image of a function of row and column, with two channels."""

    def sample(row, column):
        value = np.asarray(function(row, column), np.float32)
        return np.stack([value, 2.0 * value])

    rows, columns = coarse_grid(shape, step)
    coarse = sample(*np.meshgrid(rows, columns, indexing="ij"))
    return refine(sample, coarse, step, shape, tolerance, np.full(coarse.shape[1:], watched))


def exact(function, shape):
    return function(*np.mgrid[: shape[0], : shape[1]])


def ball(row, column):
    """Chords of a ball with a radius of 90 pixels: a steep edge, smooth elsewhere."""
    return 0.1 * np.sqrt(np.maximum(90.0**2 - (row - 120.3) ** 2 - (column - 99.8) ** 2, 0.0))


def test_a_plane_needs_no_further_samples():
    shape = (61, 83)
    image = draw(lambda row, column: 0.3 * row - 0.2 * column, shape, 8)
    rows, columns = coarse_grid(shape, 8)
    assert image.sampled == len(rows) * len(columns)
    plane = exact(lambda row, column: 0.3 * row - 0.2 * column, shape)
    np.testing.assert_allclose(image.rows(0, 61), [plane, 2 * plane], atol=1e-4)


@pytest.mark.parametrize("step", [2, 4, 8])
def test_edges_are_sharp_and_few_points_are_sampled(step):
    shape = (245, 203)
    image = draw(ball, shape, step, tolerance=0.02)
    error = np.abs(image.rows(0, 245)[0] - exact(ball, shape))
    # The values reach 9, and the edge rises by 1.3 within a pixel.
    assert np.quantile(error, 0.9995) < 0.1
    assert error.max() < 1.0 and error.mean() < 0.005
    grid = (245 / step) * (203 / step)
    assert image.sampled < grid + 0.25 * 245 * 203


def test_a_smaller_tolerance_costs_samples_and_lowers_the_error():
    shape = (245, 203)
    coarse, fine = (draw(ball, shape, 8, tolerance=t) for t in (0.1, 0.005))
    errors = [np.abs(i.rows(0, 245)[0] - exact(ball, shape)).mean() for i in (coarse, fine)]
    assert fine.sampled > 1.5 * coarse.sampled
    assert errors[1] < 0.3 * errors[0]


def test_a_line_between_coarse_points_is_drawn_where_points_are_watched():
    def line(row, column):
        return np.where(np.abs(row - 36) < 3, 1.0, 0.0) + 0.0 * column

    shape = (80, 40)
    unwatched, watched = (draw(line, shape, 8, watched=watched) for watched in (False, True))
    assert unwatched.rows(0, 80)[0].max() == 0.0
    np.testing.assert_array_equal(watched.rows(0, 80)[0], exact(line, shape))


@pytest.mark.parametrize("step", [1, 2, 8])
def test_rows_do_not_depend_on_the_block_in_which_they_are_drawn(step):
    shape = (101, 67)
    image = draw(lambda row, column: ball(2 * row, 3 * column), shape, step)
    whole = image.rows(0, 101)
    blocks = [image.rows(top, min(top + 7, 101)) for top in range(0, 101, 7)]
    np.testing.assert_array_equal(np.concatenate(blocks, 1), whole)
    if step == 1:
        np.testing.assert_allclose(
            whole[0], exact(lambda r, c: ball(2 * r, 3 * c), shape), rtol=1e-6
        )
