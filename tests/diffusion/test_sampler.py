"""Radiographs from tiles, with denoisers that are known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from femur_jax.data.pyramid import double, level_sizes
from femur_jax.data.synthetic import Request
from femur_jax.diffusion import canvases
from femur_jax.diffusion.canvases import Job
from femur_jax.diffusion.conditioning import Conditioning
from femur_jax.diffusion.sampler import Sampler
from femur_jax.diffusion.tiling import Grid
from femur_jax.errors import UserError
from tests.diffusion import host_sampler

PATCH = 16
CONFIG = ConfigDict(
    {
        "seed": 0,
        "solver": "dpm_solver_2m",
        "sigma_max": (20.0, 1.0),
        "sigma_min": 0.01,
        "steps": (16, 8),
        "context_sigma": 0.05,
        "overlap": 0.25,
        "tile_batch": 1,
        "megapixels": 1e-3,
    }
)
REQUESTS = [
    Request(40, 25, 0.2, "AFF"),
    Request(16, 16, 0.0, "NFF"),
    Request(21, 64, 0.1, "NFF"),
    Request(9, 13, 0.1, "AFF"),
]


def jobs(levels=None):
    return [
        Job(n, request, level_sizes(request.height, request.width, PATCH)[:levels])
        for n, request in enumerate(REQUESTS)
    ]


def sample(denoise, jobs, finished=(), **changes):
    """Samples of the sampler, by number."""
    config = ConfigDict(CONFIG.to_dict() | changes)
    return dict(Sampler(denoise, config, patch=PATCH).sample(jobs, finished=finished))


def on_host(denoise):
    """A denoiser of NumPy's arrays as one of arrays on devices."""

    @functools.wraps(denoise)
    def tile_denoiser(level, x, sigma, conditioning):
        x, sigma, conditioning = jax.tree.map(np.asarray, (x, sigma, conditioning))
        assert (conditioning.level == level).all()
        return jnp.asarray(denoise(x, sigma, conditioning), jnp.float32)

    return tile_denoiser


@on_host
def slope_denoiser(x, sigma, conditioning):
    """The exact denoiser of pixels that are normal around a slope down the whole radiograph."""
    row = conditioning.origin[:, 0, None] + np.arange(PATCH)
    mean = (0.6 * (2 * row / conditioning.level_size[:, 0, None] - 1))[:, :, None, None]
    s = sigma[:, None, None, None]
    variance = 0.05**2
    return (variance * x + s**2 * mean) / (variance + s**2)


@pytest.mark.parametrize("tiles", [{}, {"overlap": 0.5}])
@pytest.mark.parametrize("solver", [{}, {"solver": "heun", "steps": (12, 6)}])
def test_tiles_join_to_one_radiograph_of_the_requested_size(tiles, solver):
    radiographs = sample(slope_denoiser, jobs(), **tiles, **solver)
    assert [radiographs[n].shape for n in range(4)] == [(r.height, r.width) for r in REQUESTS]
    for pixels in radiographs.values():
        values = pixels / 32767.5 - 1
        height = pixels.shape[0]
        expected = 0.6 * (2 * np.arange(height) / height - 1)
        assert np.abs(values - expected[:, None]).max() < 0.3  # 6 standard deviations
        assert np.std(values - expected[:, None]) == pytest.approx(0.05, rel=0.25)


def test_radiographs_are_those_of_a_sampler_on_the_host():
    def mixed(x, sigma, context):
        """An estimate that depends on the whole tile, and on the context."""
        spread = x / (1 + sigma**2)
        return 0.8 * spread + 0.1 * np.roll(spread, (3, 1), (-2, -1)) + 0.1 * np.tanh(context)

    @on_host
    def denoise(x, sigma, conditioning):
        D = mixed(x[..., 0], sigma[:, None, None], conditioning.context[..., 0])
        return D[..., None]

    key = jax.random.key(CONFIG.seed)
    samples = sample(denoise, jobs(), megapixels=1.0)
    for job in jobs():

        def noise(level, purpose, size, job=job):
            layout = canvases.lay_out([job], level, Grid.of(PATCH, CONFIG.overlap), {})
            nothing = canvases.no_guess(layout)
            flat = canvases.add_noise(nothing, layout, key, level, purpose, 1.0)
            return np.asarray(flat)[: size[0] * size[1]].reshape(size)

        expected = host_sampler.sample(
            lambda level, origin, x, sigma, context: mixed(x, sigma, context),
            noise,
            job.sizes,
            CONFIG,
            PATCH,
        )
        values = samples[job.number] / 32767.5 - 1
        np.testing.assert_allclose(values, np.clip(expected, -1, 1), atol=1e-4)
        assert (np.abs(expected) < 1).mean() > 0.3


def test_result_depends_on_the_seed_only_and_not_on_batches():
    whole = sample(slope_denoiser, jobs())
    for samples in (
        sample(slope_denoiser, jobs(), tile_batch=3),
        sample(slope_denoiser, jobs(), megapixels=1.0),
    ):
        for n, pixels in whole.items():
            np.testing.assert_array_equal(samples[n], pixels)
    alone = sample(slope_denoiser, jobs()[2:3])
    np.testing.assert_array_equal(alone[2], whole[2])
    changed = sample(slope_denoiser, jobs(), seed=1)
    assert all((changed[n] != whole[n]).any() for n in whole)


def test_finished_radiographs_are_skipped_and_the_rest_stays_the_same():
    whole = sample(slope_denoiser, jobs())
    assert sorted(whole) == [0, 1, 2, 3]
    samples = sample(slope_denoiser, jobs(), finished={0, 1, 2, 3})
    assert samples == {}
    samples = sample(slope_denoiser, jobs(), finished={0, 2})
    assert {1, 3} <= set(samples)
    for n, pixels in samples.items():
        np.testing.assert_array_equal(pixels, whole[n])


def test_stops_at_the_requested_level():
    samples = sample(slope_denoiser, jobs(levels=2))
    assert [samples[n].shape for n in range(4)] == [(20, 13), (16, 16), (11, 32), (9, 13)]


def test_finer_levels_see_the_coarser_ones():
    seen = []

    def record(level, x, sigma, conditioning):
        seen.extend(zip(*map(np.asarray, conditioning), strict=True))
        return slope_denoiser(level, x, sigma, conditioning)

    request = Request(64, 40, 0.2, "AFF")
    job = Job(0, request, level_sizes(64, 40, PATCH))
    sample(record, [job], steps=(16, 1), context_sigma=1e-9)
    levels = [
        sample(
            slope_denoiser,
            [Job(0, request, job.sizes[: n + 1])],
            steps=(16, 1),
            context_sigma=1e-9,
        )[0]
        for n in range(3)
    ]
    for tile in map(Conditioning._make, seen):
        level, (y, x) = int(tile.level), tile.origin
        if level == 0:
            assert not tile.context.any()
            continue
        fine = double(levels[level - 1] / np.float32(32767.5) - 1)
        crop = fine[y : y + PATCH, x : x + PATCH][: job.sizes[level][0] - y]
        height, width = crop.shape
        np.testing.assert_allclose(tile.context[:height, :width, 0], crop, atol=1e-3)
    assert {int(tile.level) for tile in map(Conditioning._make, seen)} == {0, 1, 2}


@functools.cache
def eigen(length):
    i = np.arange(length)
    return np.linalg.eigh(np.exp(-(((i[:, None] - i) / 2) ** 2) / 2) + 1e-3 * np.eye(length))


FIELD_VARIANCE = 0.25**2


@on_host
def field_denoiser(x, sigma, conditioning):
    """The exact denoiser, given a tile, of a smooth stationary Gaussian field of any size."""
    D = np.zeros_like(x)
    for n in range(len(x)):
        height, width = np.minimum(conditioning.level_size[n] - conditioning.origin[n], PATCH)
        (rows, U), (columns, V) = eigen(int(height)), eigen(int(width))
        power = FIELD_VARIANCE * rows[:, None] * columns
        projected = U.T @ x[n, :height, :width, 0] @ V
        D[n, :height, :width, 0] = U @ (power / (power + sigma[n] ** 2) * projected) @ V.T
    return D


@pytest.mark.parametrize("tiles", [{}, {"overlap": 0.5}])
def test_a_field_is_the_same_across_borders_of_tiles_as_within(tiles):
    size = (37, 61)
    many = [Job(n, Request(*size, 0.0, "AFF"), [size]) for n in range(20)]
    samples = sample(field_denoiser, many, tile_batch=8, steps=(20,), megapixels=1.0, **tiles)
    fields = np.stack([samples[n] for n in range(20)]) / 32767.5 - 1
    truth = eigen(2)
    C = FIELD_VARIANCE * 1.001 * (truth[1] * truth[0]) @ truth[1].T
    expected = 2 * (C[0, 0] - C[0, 1])
    for axis in (1, 2):
        jumps = np.mean(np.diff(fields, axis=axis) ** 2, axis=(0, 3 - axis)) / expected
        # 20 fields leave an uncertainty of some percent in a row or column.
        assert 0.7 < jumps.min() < jumps.max() < 1.4
        assert np.std(jumps) / np.mean(jumps) < 0.12
    assert np.var(fields) / FIELD_VARIANCE == pytest.approx(1.0, abs=0.1)


def test_a_radiograph_that_is_not_finite_is_an_error():
    def broken(level, x, sigma, conditioning):
        return x * (np.nan if level == 1 else 0)

    with pytest.raises(UserError, match=r"Level 1 .* not finite"):
        sample(broken, jobs())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"solver": "euler"}, "dpm_solver_2m"),
        ({"overlap": 0.6}, "overlap"),
        ({"steps": ()}, "steps"),
        ({"steps": (3, 0)}, "steps"),
        ({"sigma_max": (0.001,)}, "sigma_max"),
        ({"tile_batch": 0}, "tile_batch"),
    ],
)
def test_settings_out_of_range_are_errors(change, word):
    with pytest.raises(UserError, match=word):
        sample(slope_denoiser, jobs(), **change)
