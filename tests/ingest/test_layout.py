"""Right and wrong readings of radiographs, simulated and real."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.radiographs import BITS, picture
from femur_jax.ingest.layout import is_smooth


def _is_read_wrongly(stored, bits):
    """Whether the other readings of values are refused, those with a difference."""
    turned = stored.reshape(stored.shape[::-1])
    wrapped = np.where(stored >= 1 << (bits - 1), stored.astype(np.int32) - (1 << bits), stored)
    return not is_smooth(turned, bits) and not is_smooth(wrapped.astype(np.int16), bits)


def test_a_simulated_picture_is_smooth_as_it_is():
    stored = picture(0.3, seed=1)
    assert is_smooth(stored, BITS)
    assert is_smooth((stored - 2048.0).astype(np.int16), BITS)
    assert _is_read_wrongly(stored, BITS)


def test_real_radiographs_are_smooth_as_they_are(real_radiographs):
    for path in sorted((real_radiographs / "chest").glob("*.jpg"))[:4]:
        with Image.open(path) as image:
            stored = np.asarray(image.convert("L"))[:-100]
        assert is_smooth(stored, 8)
        assert _is_read_wrongly(stored, 8)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 2), (3, 500)])
def test_noise_and_small_pictures_are_not_refused(shape):
    """No reading of them is smoother than the others."""
    noise = np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)
    assert is_smooth(noise, 12)
    assert is_smooth(np.zeros(shape, np.uint16), 12)


def test_a_field_with_hard_edges_is_not_refused():
    """White film around a dark field has as few jumps as edges."""
    stored = np.full((400, 300), 4095, np.uint16)
    stored[100:300, 50:250] = picture(0.09, seed=2)[:200, :200] // 16
    assert is_smooth(stored, 12)
