import numpy as np
import pytest

from femur_jax.data.pyramid import double, fitted_size, halve, level_sizes, pyramid, shrink


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (height, width), np.uint16)


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ((64, 64), 64, [(64, 64)]),
        ((65, 64), 64, [(33, 32), (65, 64)]),
        ((10, 3), 64, [(10, 3)]),
        ((1024, 512), 256, [(256, 128), (512, 256), (1024, 512)]),
        ((2001, 1500), 256, [(251, 188), (501, 375), (1001, 750), (2001, 1500)]),
        ((1, 9), 2, [(1, 2), (1, 3), (1, 5), (1, 9)]),
    ],
)
def test_level_sizes(size, patch, expected):
    assert level_sizes(*size, patch) == expected


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (7, 5), (1, 1), (1, 4)])
def test_halve_averages_blocks(size):
    image = _noise(*size)
    half = halve(image)
    assert half.shape == (-(-size[0] // 2), -(-size[1] // 2))
    for y in range(half.shape[0]):
        for x in range(half.shape[1]):
            block = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(np.float64)
            assert abs(half[y, x] - block.mean()) <= 0.5


def test_halve_keeps_the_mean_and_the_range():
    image = _noise(64, 48)
    # Rounding halves up adds at most 1/2, on average 1/8 (three of four remainders round).
    assert abs(halve(image).mean() - image.mean()) < 0.2
    white = np.full((5, 5), 65535, np.uint16)
    assert (halve(white) == 65535).all()


def test_levels_have_their_sizes():
    image = _noise(77, 50)
    levels = pyramid(image, 16)
    assert [level.shape for level in levels] == level_sizes(77, 50, 16)
    assert levels[-1] is image


@pytest.mark.parametrize("size", [(5, 7), (1, 3), (2, 2), (16, 1)])
def test_double_interpolates_at_pixel_centres(size):
    image = np.random.default_rng(1).uniform(0, 65535, size).astype(np.float32)
    expected = image.astype(np.float64)
    for axis in (0, 1):
        length = expected.shape[axis]
        coarse, fine = np.arange(length) + 0.5, (np.arange(2 * length) + 0.5) / 2
        # np.interp repeats the border.
        expected = np.apply_along_axis(
            lambda v, f=fine, c=coarse: np.interp(f, c, v), axis, expected
        )
    np.testing.assert_allclose(double(image), expected, rtol=1e-6)


def test_double_of_halve_keeps_a_ramp():
    y, x = np.mgrid[:16, :16]
    ramp = (100 * y + 200 * x + 1000).astype(np.uint16)
    again = double(halve(ramp).astype(np.float32))
    np.testing.assert_array_equal(again[1:-1, 1:-1], ramp[1:-1, 1:-1])


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        ((100, 50), (50, 50), (50, 25)),
        ((50, 100), (10, 10), (5, 10)),
        ((30, 20), (30, 30), (30, 20)),
        ((30, 20), (64, 64), (30, 20)),
        ((1000, 1), (10, 10), (10, 1)),
        ((99, 70), (64, 64), (64, 45)),
        ((100, 50), (80, 20), (40, 20)),
        ((100, 50), (20, 80), (20, 10)),
        ((100, 100), (30, 60), (30, 30)),
    ],
)
def test_shrink_sizes(size, shape, expected):
    image = _noise(*size)
    assert fitted_size(size, shape) == expected
    small = shrink(image, shape)
    assert small.shape == expected
    if expected == size:
        np.testing.assert_array_equal(small, image)


def test_shrunk_sizes_fit_and_touch():
    """Both sides fit, one fills the shape, and the aspect ratio is exact to half a pixel."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        size, shape = (tuple(int(s) for s in rng.integers(20, 5000, 2)) for _ in range(2))
        fitted = fitted_size(size, shape)
        if fitted == size:
            assert size[0] <= shape[0] and size[1] <= shape[1]
            continue
        filled = 0 if fitted[0] == shape[0] else 1
        assert fitted[filled] == shape[filled] and fitted[1 - filled] <= shape[1 - filled]
        exact = size[1 - filled] * shape[filled] / size[filled]
        assert abs(fitted[1 - filled] - exact) <= 0.5 or fitted[1 - filled] == 1


def test_shrink_keeps_constants_and_the_mean():
    assert (shrink(np.full((91, 53), 65535, np.uint16), (17, 17)) == 65535).all()
    image = _noise(160, 120)
    assert abs(shrink(image, (40, 40)).mean() - image.mean()) < 0.01 * image.mean()


def test_shrink_is_antialiased():
    checkers = (np.indices((128, 128)).sum(0) % 2 * 60000).astype(np.uint16)
    small = shrink(checkers, (32, 32))[1:-1, 1:-1]
    assert abs(small.astype(float) - 30000).max() < 600
