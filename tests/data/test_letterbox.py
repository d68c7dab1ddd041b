import numpy as np
import pytest

from femur_jax.data.letterbox import (
    best_shape,
    letterbox,
    letterbox_box,
    letterbox_mask,
    paste_centred,
)


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        ((8, 8), (8, 8), (0, 0, 8, 8)),
        ((8, 4), (8, 8), (0, 2, 8, 4)),
        ((4, 8), (8, 8), (2, 0, 4, 8)),
        ((3, 8), (8, 8), (2, 0, 3, 8)),
        ((1, 1), (8, 8), (3, 3, 1, 1)),
        ((5, 4), (9, 6), (2, 1, 5, 4)),
    ],
)
def test_boxes_are_centred(size, shape, expected):
    box = letterbox_box(size, shape)
    assert tuple(box) == expected
    image = np.arange(1, 1 + size[0] * size[1], dtype=np.uint16).reshape(size)
    pixels, pasted = paste_centred(image, shape)
    np.testing.assert_array_equal(pasted, box)
    before = np.array(expected[:2])
    after = np.array(shape) - before - size
    assert (abs(before - after) <= 1).all()
    padding = list(zip(before, after, strict=True))
    np.testing.assert_array_equal(pixels, np.pad(image, padding))


def test_masks_show_the_boxes():
    boxes = np.array([letterbox_box((7, 12), (14, 12)), letterbox_box((12, 3), (14, 12))])
    mask = np.asarray(letterbox_mask(boxes, (14, 12)))
    assert mask.shape == (2, 14, 12, 1)
    for box, shown in zip(boxes, mask, strict=True):
        pixels, _ = paste_centred(np.ones(box[2:], np.uint16), (14, 12))
        np.testing.assert_array_equal(shown[..., 0], pixels)


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (40, 24)])
def test_radiographs_are_shrunk_and_enlarged_where_requested(dataset, shape, enlarge):
    for n, entry in enumerate(dataset.entries):
        box = letterbox(dataset, n, shape, enlarge=enlarge)
        assert box["pixels"].shape == shape
        assert box["label"] == ("NFF", "AFF").index(entry.label)
        top, left, height, width = box["box"]
        scale = min(shape[0] / entry.height, shape[1] / entry.width)
        scale = scale if enlarge else min(1, scale)
        assert abs(height - entry.height * scale) <= 1
        assert abs(width - entry.width * scale) <= 1
        inside = box["pixels"][top : top + height, left : left + width]
        if scale == 1:
            np.testing.assert_array_equal(inside, dataset.read(n))
        assert abs(inside.mean() / dataset.read(n).mean() - 1) < 0.1
        outside = box["pixels"].copy()
        outside[top : top + height, left : left + width] = 0
        assert not outside.any()


@pytest.mark.parametrize(
    ("size", "best"), [((100, 40), 1), ((40, 100), 0), ((30, 30), 0), ((90, 60), 1), ((64, 64), 0)]
)
def test_the_best_shape_shows_an_image_largest(size, best):
    assert best_shape(size, [(32, 32), (48, 24)]) == best


def test_a_best_shape_may_be_filled_by_enlarging():
    shapes = [(32, 32), (48, 24)]
    assert best_shape((10, 5), shapes) == 0
    assert best_shape((10, 5), shapes, enlarge=True) == 1
