"""Tiles: weights, origins, and whether they leave a trace in fields with a known denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.data.loader import last_origin
from femur_jax.diffusion.solvers import SOLVERS, karras_sigmas
from femur_jax.diffusion.tiling import Grid
from tests.diffusion import host_sampler

PATCH = 32
VARIANCE = 0.25**2


def spans(length, *, overlap):
    """The origin of each tile, and the weights of its pixels inside a side of the length."""
    grid = Grid.of(PATCH, overlap)
    pixels, length = np.arange(length), np.full(1, length)
    weights = np.zeros((grid.count(length)[0], len(pixels)))
    for tile, weight in grid.covers(pixels, length):
        np.add.at(weights, (np.asarray(tile), pixels), np.asarray(weight))
    origins = np.asarray(grid.origin(np.arange(len(weights)), length)).tolist()
    for origin, row in zip(origins, weights, strict=True):
        assert not row[:origin].any() and not row[origin + PATCH :].any()
    return [(n, row[n : n + PATCH]) for n, row in zip(origins, weights, strict=True)]


@pytest.mark.parametrize("length", [3, 16, 17, 31, 32, 33, 61, 200])
@pytest.mark.parametrize("overlap", [0.0, 0.125, 0.25, 0.5])
def test_weights_add_up_to_one_at_origins_known_from_training(length, overlap):
    total = np.zeros(length)
    expected = host_sampler.spans(length, PATCH, overlap)
    found = spans(length, overlap=overlap)
    assert [origin for origin, _ in found] == [origin for origin, _ in expected]
    for (origin, weights), (_, known) in zip(found, expected, strict=True):
        assert origin in range(0, last_origin(length, PATCH) + 1, 2)
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights, known[: len(weights)], atol=1e-6)
        total[origin : origin + PATCH] += weights
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_without_overlap_each_pixel_has_one_tile():
    for _, weights in spans(200, overlap=0.0):
        assert set(weights) <= {0.0, 1.0}


@pytest.mark.parametrize(("overlap", "tiles"), [(0.0, 7), (0.25, 8), (0.5, 12)])
def test_no_more_tiles_than_needed(overlap, tiles):
    assert len(spans(200, overlap=overlap)) == tiles  # 1 + (200 - 32) / period, rounded up


def covariance(length):
    """The covariance of a stationary Gaussian field: smooth over 4 pixels, with a little grain."""
    i = np.arange(length)
    smooth = np.exp(-(((i[:, None] - i) / 4) ** 2) / 2)
    return VARIANCE * (smooth + 1e-3 * np.eye(length))


def tiled(length, solver, steps, *, overlap):
    """The exact covariance of a tiled sample.

    The denoiser of a tile is the conditional mean given the pixels of the tile. Everything is
    linear, so the covariance follows from the images of the unit vectors.
    """

    tiles = spans(length, overlap=overlap)

    def denoise(x, sigma):
        x = np.asarray(x).reshape(length, length)
        estimate = np.zeros_like(x)
        for origin, weights in tiles:
            tile = slice(origin, min(origin + PATCH, length))
            C = covariance(tile.stop - tile.start)
            D = np.linalg.solve(C + sigma**2 * np.eye(len(C)), C).T @ x[tile]
            estimate[tile] += weights[:, None] * D
        return jnp.asarray(estimate.ravel())

    sigmas = karras_sigmas(10.0, 0.005, steps)
    with jax.enable_x64(True):
        M = SOLVERS[solver].solve(denoise, jnp.asarray(10.0 * np.eye(length).ravel()), sigmas)
    M = np.asarray(M).reshape(length, length)
    return M @ M.T


def jumps(C):
    """The mean squared difference of neighbours, relative to the true one."""
    truth = 2 * (covariance(2)[0, 0] - covariance(2)[0, 1])
    return (np.diag(C)[1:] + np.diag(C)[:-1] - 2 * np.diag(C, 1)) / truth


def error(C):
    truth = covariance(len(C))
    return np.linalg.norm(C - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize("length", [97, 131])
def test_overlapping_tiles_leave_no_seam(overlap, length):
    C = tiled(length, "dpm_solver_2m", 24, overlap=overlap)
    assert error(C) < 0.06
    ratios = jumps(C)
    assert ratios.max() / ratios.min() < 1.1  # the same at borders of tiles and within


def test_tiles_without_overlap_leave_a_seam():
    assert jumps(tiled(97, "dpm_solver_2m", 24, overlap=0.0)).max() > 10
