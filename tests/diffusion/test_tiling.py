"""Tiles: weights, places, and whether they leave a trace in fields whose denoiser is known."""

import numpy as np
import pytest

from femur_jax.data.loader import last_origin
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.tiling import random_shifts, spans

PATCH = 32
VARIANCE = 0.25**2


@pytest.mark.parametrize("length", [3, 16, 17, 31, 32, 33, 61, 200])
@pytest.mark.parametrize("overlap", [0.0, 0.125, 0.25, 0.5])
@pytest.mark.parametrize("shift", [0, 2, 8, 14])
def test_weights_add_up_to_one_within_places_known_from_training(length, overlap, shift):
    patch = 32
    total = np.zeros(length + 2 * patch)
    for origin, weights in spans(length, patch, overlap=overlap, shift=shift):
        assert origin in range(0, last_origin(length, patch) + 1, 2)
        assert (weights >= 0).all()
        total[origin : origin + patch] += weights
    np.testing.assert_allclose(total[:length], 1, rtol=1e-6)


def test_without_overlap_each_pixel_has_one_tile():
    for shift in range(0, PATCH, 2):
        for span in spans(200, PATCH, overlap=0.0, shift=shift):
            assert set(span.weights) <= {0.0, 1.0}


@pytest.mark.parametrize(("overlap", "tiles"), [(0.0, 7), (0.25, 8), (0.5, 12)])
def test_no_more_tiles_than_needed(overlap, tiles):
    assert len(spans(200, PATCH, overlap=overlap)) == tiles  # 1 + (200 - 32) / period, rounded up


def test_shifts_are_even_and_reach_all_of_the_period():
    rng = np.random.default_rng(0)
    drawn = np.array([random_shifts(rng, PATCH, overlap=0.25) for _ in range(400)])
    assert set(drawn[:, 0]) == set(drawn[:, 1]) == set(range(0, 24, 2))


def covariance(length):
    """Of a stationary Gaussian field along a line: smooth over 4 pixels, with a little grain."""
    i = np.arange(length)
    smooth = np.exp(-(((i[:, None] - i) / 4) ** 2) / 2)
    return VARIANCE * (smooth + 1e-3 * np.eye(length))


def tiled(length, solver, steps, *, overlap, shift, seed=0):
    """The exact covariance of what tiled sampling makes.

    Each tile is denoised by the conditional mean given its own pixels. All of it is linear, so the
    covariance follows from what becomes of the unit vectors.
    """
    rng = np.random.default_rng(seed)

    def denoise(x, sigma):
        x = x.reshape(length, length)
        estimate = np.zeros_like(x)
        moved = random_shifts(rng, PATCH, overlap=overlap)[0] if shift else 0
        for origin, weights in spans(length, PATCH, overlap=overlap, shift=moved):
            own = slice(origin, min(origin + PATCH, length))
            C = covariance(own.stop - own.start)
            D = np.linalg.solve(C + sigma**2 * np.eye(len(C)), C).T @ x[own]
            estimate[own] += weights[: len(C), None] * D
        return estimate.ravel()

    sigmas = karras_sigmas(10.0, 0.005, steps)
    M = SOLVERS[solver].solve(denoise, (10.0 * np.eye(length)).ravel(), sigmas)
    M = M.reshape(length, length)
    return M @ M.T


def jumps(C):
    """Mean square of the difference of neighbours, over the field's own."""
    truth = 2 * (covariance(2)[0, 0] - covariance(2)[0, 1])
    return (np.diag(C)[1:] + np.diag(C)[:-1] - 2 * np.diag(C, 1)) / truth


def error(C):
    truth = covariance(len(C))
    return np.linalg.norm(C - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize("length", [97, 131])
def test_overlapping_tiles_leave_no_seam(overlap, length):
    C = tiled(length, "dpm_solver_2m", 24, overlap=overlap, shift=False)
    assert error(C) < 0.06
    found = jumps(C)
    assert found.max() / found.min() < 1.1  # alike at borders of tiles and within


def test_a_fixed_grid_without_overlap_leaves_one():
    assert jumps(tiled(97, "dpm_solver_2m", 24, overlap=0.0, shift=False)).max() > 10


def test_random_shifts_blur_the_seam_over_the_field():
    # What remains: up to a tenth of the variance is lost, and neighbours differ a little more than
    # they should, but everywhere alike.
    fields = [tiled(97, "dpm_solver_2m", 24, overlap=0.0, shift=True, seed=n) for n in range(6)]
    mean = np.mean(fields, axis=0)
    assert error(mean) < 0.12
    assert jumps(mean).max() < 1.5
    assert 0.85 < np.diag(mean).min() / VARIANCE < np.diag(mean).max() / VARIANCE < 1.1
