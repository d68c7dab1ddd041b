"""Features of radiographs against the radiographs' pixels."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from femur_jax.errors import UserError
from femur_jax.evaluation.alignment import shifted_distances
from femur_jax.evaluation.features import (
    Extractor,
    crops,
    extract_features,
    network,
    patch_features,
    pixels,
    radiograph_features,
    thumbnails,
)
from tests.models.weight_files import save


def test_thumbnails_show_the_whole_radiograph(dataset):
    large = [n for n, e in enumerate(dataset.entries) if min(e.height, e.width) >= 24]
    got = thumbnails(dataset, large, side=12)
    for picture, n in zip(got, large, strict=True):
        pixels = Image.fromarray(dataset.read(n).astype(np.float32))
        whole = np.asarray(pixels.resize((12, 12), Image.Resampling.BILINEAR))
        # From a coarser level, so not the same to the last digit.
        assert np.corrcoef(picture.ravel(), whole.ravel())[0, 1] > 0.9


def test_pixel_features_are_grey_values(dataset):
    got = radiograph_features(pixels(16), dataset, [0, 3])
    assert got.shape == (2, 256) and got.min() >= 0 and got.max() <= 1


def test_patches_are_cut_from_the_radiograph_as_it_was_recorded(dataset):
    """Each patch is found in the pixels, at different positions."""
    large = [n for n, e in enumerate(dataset.entries) if min(e.height, e.width) >= 24][:3]
    got = patch_features(pixels(16), dataset, large, each=5)
    assert got.shape == (15, 256)
    positions = set()
    for number, patch in enumerate(got.reshape(-1, 16, 16)):
        n = large[number // 5]
        windows = np.lib.stride_tricks.sliding_window_view(dataset.read(n) / 65535, (16, 16))
        match = np.argwhere(abs(windows - patch).max(axis=(2, 3)) < 1e-6)
        assert len(match) == 1
        positions.add((n, *match[0]))
    assert len(positions) > 10
    again = patch_features(pixels(16), dataset, large, each=5)
    np.testing.assert_array_equal(got, again)


def test_a_radiograph_smaller_than_a_patch_lies_in_zeros(dataset):
    (got,) = patch_features(pixels(64), dataset, [0], each=1).reshape(-1, 64, 64)
    whole = dataset.read(0) / 65535
    assert np.count_nonzero(got) == whole.size
    np.testing.assert_allclose(got[got > 0], whole.ravel(), rtol=1e-6)


def test_cropping_shifts_crops_and_does_not_scale_them():
    """Each crop of a radiograph is found in its cropped copy, and in no other radiograph."""
    rng = np.random.default_rng(3)
    images = [gaussian_filter(rng.normal(size=(116, 60)), 2) for _ in range(4)]
    images = [np.round(30000 + 1e5 * image).clip(0, 65535).astype(np.uint16) for image in images]
    got = np.stack([crops(image) for image in [*images, images[2][5:, 3:]]])
    assert got.shape == (5, 3, 40, 40)
    for crop in range(3):
        distances = shifted_distances(got[4:, crop], got[:4, crop])[0]
        assert distances[2] < 0.2 < 0.8 < np.sort(distances)[1]
    # Shrunk to half; of the 30 columns, those beyond the border are repeated, five on each side.
    whole = Image.fromarray(images[0].astype(np.float32)).resize((30, 58), Image.Resampling.BOX)
    middle = crops(images[0], longest=58)[1]
    assert np.corrcoef(middle[:, 20], np.asarray(whole)[9:49, 15])[0, 1] > 0.99


def test_features_are_in_order_and_do_not_depend_on_the_batch():
    images = np.random.default_rng(0).integers(0, 65536, size=(21, 6, 6)).astype(np.uint16)
    squares = Extractor("squares", 6, lambda x: x.reshape(len(x), -1)[:, :7] ** 2)
    expected = (images.reshape(21, -1)[:, :7] / 65535) ** 2
    for batch_size in (3, 16):  # eight devices: 8 and 16
        got = extract_features(squares, iter(images), batch_size=batch_size)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_no_radiographs_have_no_features(dataset):
    with pytest.raises(UserError, match="no radiographs"):
        radiograph_features(pixels(16), dataset, [])


def test_the_network_is_recognised_from_its_file(tmp_path):
    first = {"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 3, 3))}
    with pytest.raises(UserError, match=r"no tensor Conv2d_1a_3x3\.bn\.weight"):
        network(save(tmp_path / "inception.safetensors", first))
    first = {"patch_embed.proj.weight": np.zeros((64, 3, 14, 14))}
    with pytest.raises(UserError, match="not a DINOv2 of size"):
        network(save(tmp_path / "dinov2.safetensors", first))


def test_radiographs_pass_through_dinov2(dataset, tmp_path):
    """Without blocks of weight, and with zeros in place of pixels, the class token comes out."""
    token = np.random.default_rng(0).normal(size=64)
    block = {
        **{f"norm{n}.{part}": (64,) for n in (1, 2) for part in ("weight", "bias")},
        "attn.qkv.weight": (192, 64),
        "attn.qkv.bias": (192,),
        "attn.proj.weight": (64, 64),
        "attn.proj.bias": (64,),
        "mlp.fc1.weight": (256, 64),
        "mlp.fc1.bias": (256,),
        "mlp.fc2.weight": (64, 256),
        "mlp.fc2.bias": (64,),
        "ls1.gamma": (64,),
        "ls2.gamma": (64,),
    }
    weights = {f"blocks.0.{name}": np.zeros(shape) for name, shape in block.items()} | {
        "patch_embed.proj.weight": np.zeros((64, 3, 14, 14)),
        "patch_embed.proj.bias": np.zeros(64),
        "cls_token": token.reshape(1, 1, 64),
        "pos_embed": np.zeros((1, 1370, 64)),
        "norm.weight": np.ones(64),
        "norm.bias": np.zeros(64),
    }
    extractor = network(save(tmp_path / "dinov2.safetensors", weights))
    assert (extractor.side, extractor.name) == (224, "DINOv2 of width 64")
    got = radiograph_features(extractor, dataset, [0, 1])
    expected = (token - token.mean()) / token.std()
    np.testing.assert_allclose(got, np.stack([expected] * 2), atol=1e-5)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = save(tmp_path / "resnet.safetensors", {"conv1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"neither Inception-v3 .* nor DINOv2"):
        network(path)
    with pytest.raises(UserError, match="no file of weights"):
        network(tmp_path / "missing.pth")
