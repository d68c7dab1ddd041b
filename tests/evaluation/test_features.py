"""What stands for radiographs, against their own pixels."""

import numpy as np
from PIL import Image

from femur_jax.evaluation.features import (
    network_features,
    pixel_features,
    thumbnails,
)


def test_thumbnails_show_the_whole_radiograph(dataset):
    own = [n for n, e in enumerate(dataset.entries) if min(e.height, e.width) >= 24]
    got = thumbnails(dataset, own, side=12)
    for picture, n in zip(got, own, strict=True):
        pixels = Image.fromarray(dataset.read(n).astype(np.float32))
        whole = np.asarray(pixels.resize((12, 12), Image.Resampling.BILINEAR))
        # From a coarser level, so not the same to the last digit.
        assert np.corrcoef(picture.ravel(), whole.ravel())[0, 1] > 0.9


def test_pixel_features_are_grey_values(dataset):
    got = pixel_features(dataset, [0, 3], 16)
    assert got.shape == (2, 256) and got.min() >= 0 and got.max() <= 1


def test_network_features_are_in_order_and_do_not_depend_on_the_batch():
    images = np.random.default_rng(0).integers(0, 65536, size=(21, 6, 5)).astype(np.uint16)

    def extract(x):
        return x.reshape(len(x), -1)[:, :7] ** 2

    expected = (images.reshape(21, -1)[:, :7] / 65535) ** 2
    for batch_size in (3, 16):  # eight devices: 8 and 16
        got = network_features(extract, iter(images), batch_size=batch_size)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
