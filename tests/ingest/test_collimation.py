import numpy as np
import pytest
import scipy.ndimage

from femur_jax.data.radiograph import Box
from femur_jax.ingest.collimation import crop_box
from femur_jax.ingest.dicom import read_dicom
from femur_jax.ingest.image_file import read_image_file
from tests.ingest.conftest import same


def _collimated(shape, box, seed=0, band=62_000, noise=300):
    """A smooth thigh inside a box, nearly white outside, with noise and a blurred edge."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    field = scipy.ndimage.zoom(rng.normal(size=(8, 8)), (shape[0] / 8, shape[1] / 8), order=1)
    picture = 22_000 + 4000 * field[: shape[0], : shape[1]]
    middle = box.left + box.width / 2
    picture += 24_000 * np.exp(-(((columns - middle) / (0.12 * box.width)) ** 2))  # the bone
    inside = (rows >= box.top) & (rows < box.top + box.height)
    inside &= (columns >= box.left) & (columns < box.left + box.width)
    picture = np.where(inside, picture, band)
    picture = scipy.ndimage.uniform_filter(picture, 3) + noise * rng.normal(size=shape)
    return np.clip(np.round(picture), 0, 65535).astype(np.uint16)


def _assert_within(result, box, slack):
    """Checks that a box lies in the true one and loses at most `slack` on each side."""
    for low, size, true_low, true_size in zip(
        result[:2], result[2:], box[:2], box[2:], strict=True
    ):
        assert true_low <= low <= true_low + slack
        assert true_low + true_size - slack <= low + size <= true_low + true_size


@pytest.mark.parametrize(
    "box",
    [
        Box(0, 60, 700, 340),
        Box(0, 0, 700, 390),
        Box(90, 0, 610, 500),
        Box(0, 0, 520, 500),
        Box(40, 60, 560, 340),
        Box(130, 35, 470, 420),
        Box(140, 100, 420, 300),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_finds_the_collimated_field(box, seed):
    result = crop_box(_collimated((700, 500), box, seed))
    whole = Box(0, 0, 700, 500)
    # A side without a band loses nothing.
    assert result.top == 0 or box.top > 0
    assert result.left == 0 or box.left > 0
    assert result.top + result.height == 700 or box.top + box.height < whole.height
    assert result.left + result.width == 500 or box.left + box.width < whole.width
    _assert_within(result, box, slack=4)


@pytest.mark.parametrize("shape", [(1403, 1009), (1999, 1230)])
def test_large_pictures_whose_sides_are_no_multiples(shape):
    box = Box(100, 150, shape[0] - 230, shape[1] - 400)
    scale = round(max(shape) / 512)
    _assert_within(crop_box(_collimated(shape, box)), box, slack=5 * scale)


def test_a_picture_without_bands_is_left_whole():
    for seed in range(6):
        whole = Box(0, 0, 500, 300)
        assert crop_box(_collimated((500, 300), whole, seed)) == whole


def test_a_bone_along_the_edge_is_no_band():
    rows, columns = np.mgrid[:400, :300]
    picture = 15_000 + 40_000 * np.exp(-(((columns - 25 - rows / 8) / 30) ** 2))
    noise = np.random.default_rng(0).normal(size=picture.shape)
    assert crop_box((picture + 300 * noise).astype(np.uint16)) == (0, 0, 400, 300)


def test_dark_bands_are_left():
    box = Box(0, 60, 700, 340)
    assert crop_box(_collimated((700, 500), box, band=500)) == (0, 0, 700, 500)


def test_hidden_pixels_and_bands_within_what_is_seen():
    box = Box(0, 100, 700, 300)
    picture = _collimated((700, 500), box)
    hidden = np.zeros(picture.shape, bool)
    hidden[:50], hidden[:, 470:] = True, True
    picture[hidden] = 0
    result = crop_box(picture, hidden)
    _assert_within(result, Box(50, 100, 650, 300), slack=4)
    assert (result.top, result.height) == (50, 650)


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (9, 9), (31, 2000), (2, 40)])
def test_small_pictures_are_left_whole(shape):
    picture = np.random.default_rng(0).integers(0, 65535, shape).astype(np.uint16)
    assert crop_box(picture) == (0, 0, *shape)


@pytest.mark.parametrize("value", [0, 40_000, 65_535])
@pytest.mark.parametrize("ringing", [0, 1000])
def test_constant_margins_are_cropped(value, ringing):
    """Everything of the field remains, and nothing else; a JPEG's margins are nearly constant."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        top, bottom, left, right = rng.integers(0, 90, 4)
        field = rng.integers(5000, 30_000, (300, 200))
        picture = np.clip(value + rng.integers(0, ringing + 1, (700, 500)), 0, 65535)
        box = Box(int(top), int(left), 700 - int(top + bottom), 500 - int(left + right))
        picture[box.slices] = rng.integers(5000, 30_000, box[2:])
        assert crop_box(picture.astype(np.uint16)) == box
        assert crop_box(field.astype(np.uint16)) == (0, 0, 300, 200)


@pytest.mark.parametrize("degrees", [2, 10, 30])
def test_the_field_of_a_turned_collimator_is_whole(degrees):
    rows, columns = np.mgrid[:700, :500] - np.array([350, 250])[:, None, None]
    angle = np.deg2rad(degrees)
    down, right = (
        rows * np.cos(angle) - columns * np.sin(angle),
        rows * np.sin(angle) + columns * np.cos(angle),
    )
    inside = (abs(down) < 200) & (abs(right) < 120)
    picture = np.where(inside, np.random.default_rng(0).integers(9000, 30_000, inside.shape), 0)
    box = crop_box(picture.astype(np.uint16))
    assert box.top == np.flatnonzero(inside.any(1))[0]
    assert box.left == np.flatnonzero(inside.any(0))[0]
    assert (box.height, box.width) == (inside.any(1).sum(), inside.any(0).sum())


def test_a_slow_ramp_is_no_margin():
    """Without any noise, its first and last rows are alike; no more than these are cropped."""
    ramp = np.tile(np.linspace(0, 60_000, 700)[:, None], (1, 500)).astype(np.uint16)
    box = crop_box(ramp)
    assert box.height >= 650 and box.width == 500


def test_something_is_always_left():
    """Something always remains, also where all four sides look like bands."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(32, 90, 2)
        picture = np.full((height, width), 60_000)
        margins = rng.integers(0, 14, 4)
        picture[margins[0] : height - margins[1], margins[2] : width - margins[3]] = 9000
        top, left, rows, columns = crop_box(picture.astype(np.uint16))
        assert rows > 0 and columns > 0
        assert top + rows <= height and left + columns <= width


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the real files' headers
def test_the_bands_of_a_real_hip(real_radiographs):
    picture = read_dicom(real_radiographs / "dicom" / "RG2_JPLL.dcm", same)
    assert picture.pixels.shape == (2140, 1760)
    assert (picture.crop.top, picture.crop.height) == (0, 2140)
    assert 185 <= picture.crop.left <= 205
    assert 1425 <= picture.crop.left + picture.crop.width <= 1440


def test_real_chests_have_no_bands_but_one(real_radiographs):
    for path in sorted((real_radiographs / "chest").iterdir()):
        crop = read_image_file(path).crop
        if path.stem == "bb0e626a":
            assert crop.top <= 60 and crop == (crop.top, 0, 2000 - crop.top, 2000)
        else:
            assert crop == (0, 0, 2000, 2000)
