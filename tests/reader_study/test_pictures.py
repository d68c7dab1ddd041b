import struct
import zlib

import numpy as np
import pytest

from femur_jax.reader_study import pictures


def decode(data):
    """Decodes bytes to 16-bit values as the page does."""
    magic, height, width, length = struct.unpack_from("<4sIII", data)
    assert magic == b"fjr1"
    planes = np.frombuffer(zlib.decompress(data[16 : 16 + length]), np.uint8).astype(np.int64)
    zigzag = planes[: height * width] + 256 * planes[height * width :]
    signed = np.where(zigzag % 2, -(zigzag + 1) // 2, zigzag // 2).reshape(height, width)
    return (np.cumsum(signed, axis=1) % 65536).astype(np.uint16)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (31, 17)])
def test_encoding_is_lossless(shape):
    pixels = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    pixels.flat[0] = 65535
    assert np.array_equal(decode(pictures.encode(pixels)), pixels)


@pytest.mark.parametrize("first, second", [((400, 100), (200, 100)), ((300, 200), (300, 200))])
def test_the_common_size_crops_both_equally_and_enlarges_neither(first, second):
    target = pictures.common_size(first, second)
    cropped = [pictures.cropped_share(size, target) for size in (first, second)]
    aspect = np.sqrt(first[0] / first[1] * second[0] / second[1])
    assert target[0] / target[1] == pytest.approx(aspect, rel=0.02)
    assert cropped == pytest.approx(
        [1 - min(1, aspect / (s[0] / s[1]), s[0] / s[1] / aspect) for s in (first, second)],
        abs=0.02,
    )
    assert cropped[0] == pytest.approx(cropped[1], abs=0.02)
    for size in (first, second):
        assert target[0] <= 0.9 * size[0] and target[1] <= 0.9 * size[1]


def test_grey_values_are_stretched_and_the_centre_is_kept():
    rng = np.random.default_rng(0)
    ramp = np.linspace(20000, 21000, 300)[:, None] + rng.uniform(-1, 1, (300, 200))
    image = pictures.standardise(ramp.astype(np.uint16), (90, 90))  # rows 50 to 250 remain
    assert image.shape == (90, 90) and image.min() == 0 and image.max() == 65535
    rows = image.mean(axis=1, dtype=float)
    assert np.corrcoef(rows, np.arange(90))[0, 1] > 0.999
    brighter = pictures.standardise((ramp + 30000).astype(np.uint16), (90, 90))
    assert (
        np.abs(image.astype(int) - brighter).max() < 65535 * 3 / 600
    )  # offset and range have no effect


def test_a_blank_radiograph_stays_blank():
    assert not pictures.standardise(np.full((20, 20), 7, np.uint16), (9, 9)).any()
