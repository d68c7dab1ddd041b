"""Flat buffers of canvases against the same on the host, in double precision."""

import jax
import numpy as np
import pytest

from femur_jax.data.synthetic import Request
from femur_jax.diffusion import canvases
from femur_jax.diffusion.canvases import Job
from femur_jax.diffusion.tiling import Grid
from tests.diffusion.host_sampler import blended, cut, interpolated

PATCH = 16
SIZES = [(40, 25), (16, 16), (21, 64), (1, 3), (200, 9)]
JOBS = [
    Job(n, Request(h, w, 0.1 * n, "AFF"), [((h + 1) // 2, (w + 1) // 2), (h, w)])
    for n, (h, w) in enumerate(SIZES)
]
GRID = Grid.of(PATCH, 0.25)
KEY = jax.random.key(3)


def level_of(jobs, level, grid=GRID, starts=None):
    """The layout of jobs, and the place and size of each canvas."""
    layout = canvases.lay_out(jobs, level, grid, starts or {})
    sizes = [job.sizes[level] for job in jobs]
    places = [
        (slice(start, start + height * width), (height, width))
        for start, (height, width) in zip(layout.start.tolist(), sizes, strict=False)
    ]
    return canvases.to_device(layout), places


def flat(layout, places, pictures):
    buffer = np.full(len(layout.canvas) * 128, np.nan, np.float32)
    for (place, _), picture in zip(places, pictures, strict=True):
        buffer[place] = picture.ravel()
    return buffer


def pictures_of(places, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(np.float32) for _, size in places]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_are_cut_and_blended_as_on_the_host(overlap):
    grid, batch_size = Grid.of(PATCH, overlap), 16
    layout, places = level_of(JOBS, 1, grid)
    pictures, contexts = pictures_of(places), pictures_of(places, seed=1)
    x, context = flat(layout, places, pictures), flat(layout, places, contexts)
    estimates = canvases.no_estimates(layout, batch_size, grid)
    expected = [
        (n, origin, tile)
        for n, picture in enumerate(pictures)
        for origin, tile in tiles_of(picture, overlap)
    ]
    assert int(layout.first_tile[-1]) == len(expected)
    for n, first in enumerate(range(0, len(expected), batch_size)):
        tiles, sigma, conditioning = canvases.cut(
            x, context, layout, first, 1, 0.5, 0.1, batch_size=batch_size, grid=grid
        )
        tiles = np.asarray(tiles)
        for i, (canvas, origin, tile) in enumerate(expected[first : first + batch_size]):
            np.testing.assert_array_equal(tiles[i, ..., 0], tile)
            crop = cut(contexts[canvas], origin, PATCH)
            np.testing.assert_array_equal(conditioning.context[i, ..., 0], crop)
            assert tuple(conditioning.origin[i].tolist()) == origin
            assert tuple(conditioning.level_size[i].tolist()) == SIZES[canvas]
            assert tuple(conditioning.size[i].tolist()) == SIZES[canvas]
            assert conditioning.spacing_mm[i] == pytest.approx(0.1 * canvas)
            assert (conditioning.level[i], conditioning.label[i]) == (1, 1)
            assert (sigma[i], conditioning.context_sigma[i]) == pytest.approx((0.5, 0.1))
        estimates = canvases.store(estimates, estimate_of(tiles), n)
    estimate = np.asarray(canvases.blend(estimates, layout, grid=grid))
    assert np.isfinite(estimate).all()
    for (place, size), picture in zip(places, pictures, strict=True):
        expected = blended(lambda _, tile: estimate_of(tile), picture, PATCH, overlap)
        np.testing.assert_allclose(estimate[place].reshape(size), expected, atol=1e-5)


def estimate_of(tiles):
    """Estimates that differ between tiles of the same pixel."""
    height, width = np.indices((PATCH, PATCH))
    return tiles * (1 + height + 2 * width).reshape((PATCH, PATCH) + (1,) * (tiles.ndim == 4)) / 9


def tiles_of(picture, overlap):
    tiles = []
    blended(lambda *tile: tiles.append(tile) or tile[1], picture, PATCH, overlap)
    return tiles


def test_a_level_is_interpolated_to_the_next():
    coarse, coarse_places = level_of(JOBS, 0)
    pictures = pictures_of(coarse_places)
    starts = {n: place.start for n, (place, _) in enumerate(coarse_places)}
    some = [JOBS[4], JOBS[0], JOBS[2]]  # others may have ended, or be in another group
    layout, places = level_of(some, 1, starts=starts)
    fine = np.asarray(canvases.double(flat(coarse, coarse_places, pictures), layout))
    for job, (place, size) in zip(some, places, strict=True):
        expected = interpolated(pictures[job.number], size)
        np.testing.assert_allclose(fine[place].reshape(size), expected, atol=1e-6)


def noise_of(jobs, level=1, purpose=0, key=KEY):
    layout, places = level_of(jobs, 1)
    noise = canvases.add_noise(canvases.no_guess(layout), layout, key, level, purpose, 2.0)
    return [np.asarray(noise)[place] / 2 for place, _ in places]


def test_noise_is_normal_and_belongs_to_the_pixel_of_a_radiograph():
    noises = noise_of(JOBS)
    everything = np.concatenate(noises)
    assert everything.mean() == pytest.approx(0, abs=4 / np.sqrt(everything.size))
    assert everything.std() == pytest.approx(1, abs=4 / np.sqrt(2 * everything.size))
    assert len(np.unique(everything)) > 0.999 * everything.size
    for n, alone in enumerate(noise_of(JOBS[::-1])[::-1]):
        np.testing.assert_array_equal(alone, noises[n])
    for other in ({"level": 2}, {"purpose": 1}, {"key": jax.random.key(4)}):
        changed = np.concatenate(noise_of(JOBS, **other))
        assert abs(np.corrcoef(changed, everything)[0, 1]) < 4 / np.sqrt(everything.size)
    renumbered = np.concatenate(noise_of([job._replace(number=job.number + 9) for job in JOBS]))
    assert abs(np.corrcoef(renumbered, everything)[0, 1]) < 4 / np.sqrt(everything.size)


def test_few_lengths_serve_all_sizes():
    grid = Grid.of(64, 0.25)
    lengths = set()
    for side in range(10, 4000, 50):
        job = Job(0, Request(side, side, 0.0, "NFF"), [(side, side)])
        length = len(canvases.lay_out([job], 0, grid, {}).canvas) * 128
        assert side**2 <= length
        assert length <= 1.7 * side**2 or length < 2**15
        lengths.add(length)
    assert len(lengths) < 25
