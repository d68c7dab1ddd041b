import numpy as np
import pytest

from femur_jax.data.letterbox import letterbox, letterbox_box, letterbox_mask, place_in_square


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((8, 8), 8, (0, 0, 8, 8)),
        ((8, 4), 8, (0, 2, 8, 4)),
        ((4, 8), 8, (2, 0, 4, 8)),
        ((3, 8), 8, (2, 0, 3, 8)),
        ((1, 1), 8, (3, 3, 1, 1)),
    ],
)
def test_boxes_are_centred(size, side, expected):
    box = letterbox_box(*size, side)
    assert tuple(box) == expected
    image = np.arange(1, 1 + size[0] * size[1], dtype=np.uint16).reshape(size)
    pixels, placed = place_in_square(image, side)
    np.testing.assert_array_equal(placed, box)
    before = np.array(expected[:2])
    after = side - before - size
    assert (abs(before - after) <= 1).all()
    padding = list(zip(before, after, strict=True))
    np.testing.assert_array_equal(pixels, np.pad(image, padding))


def test_masks_show_the_boxes():
    boxes = np.array([letterbox_box(7, 12, 12), letterbox_box(12, 3, 12)])
    mask = np.asarray(letterbox_mask(boxes, 12))
    assert mask.shape == (2, 12, 12, 1)
    for box, shown in zip(boxes, mask, strict=True):
        pixels, _ = place_in_square(np.ones(box[2:], np.uint16), 12)
        np.testing.assert_array_equal(shown[..., 0], pixels)


def test_radiographs_are_shrunk_and_never_enlarged(dataset):
    for n, entry in enumerate(dataset.entries):
        box = letterbox(dataset, n, 32)
        assert box["pixels"].shape == (32, 32)
        assert box["label"] == ("NFF", "AFF").index(entry.label)
        top, left, height, width = box["box"]
        scale = min(1, 32 / max(entry.height, entry.width))
        assert abs(height - entry.height * scale) <= 1
        assert abs(width - entry.width * scale) <= 1
        inside = box["pixels"][top : top + height, left : left + width]
        if scale == 1:
            np.testing.assert_array_equal(inside, dataset.read(n))
        assert abs(inside.mean() / dataset.read(n).mean() - 1) < 0.1
        outside = box["pixels"].copy()
        outside[top : top + height, left : left + width] = 0
        assert not outside.any()
