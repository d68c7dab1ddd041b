import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pytest
import scipy.ndimage

from femur_jax.data import codec
from femur_jax.data.pyramid import pyramid
from femur_jax.data.radiograph import Box, Radiograph, Source
from femur_jax.data.records import (
    FEATURES,
    RadiographEntry,
    encode,
    margin_boxes,
    pixel_hash,
    tile_of,
    tile_origins,
)

PATCH = 16


def _pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (height, width), np.uint16)


def _radiograph(pixels, **fields):
    known = {"name": "n1", "label": "AFF", "patient": "p2", "hospital": "h3"}
    return Radiograph(pixels, **(known | fields))


WHOLE = _radiograph(
    _pixels(50, 70),
    crop=Box(3, 5, 40, 49),
    spacing_mm=0.143,
    spacing_source="calibrated",
    view="lateral",
    laterality="R",
    source=Source(
        syntax="JPEG-LS", bits=12, limits=(0.0, 1.0, 2.0, 9.5), vendor="Agfa", sex="F", age=81
    ),
)


def test_the_entry_describes_the_radiograph():
    entry = encode(WHOLE, PATCH).entry
    for field in dataclasses.fields(WHOLE):
        if field.name not in ("pixels",):
            assert getattr(entry, field.name) == getattr(WHOLE, field.name)
    assert (entry.height, entry.width) == (40, 49)
    assert entry.recorded == (50, 70)
    assert (entry.split, entry.hospital_split) == ("", "")


def test_an_entry_survives_json():
    entry = encode(WHOLE, PATCH).entry
    again = RadiographEntry.from_json(json.loads(json.dumps(dataclasses.asdict(entry))))
    assert again == entry
    assert isinstance(again.crop, Box) and isinstance(again.source, Source)


@pytest.mark.parametrize(
    "damage", [{"crop": [1, 2]}, {"crop": None}, {"source": {"x": 1}}, {"x": 1}]
)
def test_fields_of_another_kind_are_refused(damage):
    fields = dataclasses.asdict(encode(WHOLE, PATCH).entry)
    with pytest.raises((TypeError, KeyError)):
        RadiographEntry.from_json(fields | damage)


def test_levels_are_tiles_of_the_crops_pyramid():
    encoded = encode(WHOLE, PATCH)
    levels = pyramid(WHOLE.pixels[3:43, 5:54], PATCH)
    assert [len(records) for records in encoded.levels] == [1, 4, 12]
    for level, records in zip(levels, encoded.levels, strict=True):
        tiles = [
            level[y : y + PATCH, x : x + PATCH]
            for y in range(0, level.shape[0], PATCH)
            for x in range(0, level.shape[1], PATCH)
        ]
        for tile, record in zip(tiles, records, strict=True):
            np.testing.assert_array_equal(tile_of(record), tile)


def test_levels_do_not_depend_on_the_crops_position():
    """A crop has the same levels as an image that consists of its pixels alone."""
    inner = _pixels(40, 49)
    expected = encode(_radiograph(inner), PATCH).levels
    for top, left, below, right in [(0, 0, 1, 1), (1, 0, 0, 0), (0, 1, 7, 0), (3, 5, 2, 30)]:
        pixels = np.pad(inner, ((top, below), (left, right)), constant_values=9)
        assert encode(_radiograph(pixels, crop=Box(top, left, 40, 49)), PATCH).levels == expected


def test_records_are_as_tfds_reads_them():
    encoded = encode(WHOLE, PATCH)
    sizes = [(10, 13), (20, 25), (40, 49)]
    for size, records in zip(sizes, encoded.levels, strict=True):
        for record, (row, column) in zip(records, tile_origins(size, PATCH), strict=True):
            example = FEATURES.deserialize_example_np(record)
            np.testing.assert_array_equal(example.pop("tile"), tile_of(record))
            text = {"radiograph": b"n1", "patient": b"p2", "hospital": b"h3"}
            position = {"row": row, "column": column, "height": size[0], "width": size[1]}
            classes = {"label": 1, "view": 2, "laterality": 2, "spacing_source": 2}
            assert example == text | position | classes | {"spacing_mm": np.float32(0.143)}


def test_records_are_as_tfds_would_write_them():
    """The order of the fields may differ, since TFDS does not define it."""
    record = encode(WHOLE, PATCH).levels[1][3]
    example = FEATURES.deserialize_example_np(record)
    rewritten = FEATURES.serialize_example(example)
    assert len(rewritten) == len(record)
    again = FEATURES.deserialize_example_np(rewritten)
    np.testing.assert_array_equal(again.pop("tile"), example.pop("tile"))
    assert again == example


def test_margins_state_their_position():
    encoded = encode(WHOLE, PATCH)
    seen = np.full((50, 70), -1)
    for record in encoded.margins:
        example = FEATURES.deserialize_example_np(record)
        assert (example["height"], example["width"]) == (50, 70)
        tile, row, column = tile_of(record), example["row"], example["column"]
        area = seen[row : row + tile.shape[0], column : column + tile.shape[1]]
        assert (area == -1).all()
        area[:] = tile
    outside = np.ones((50, 70), bool)
    outside[3:43, 5:54] = False
    np.testing.assert_array_equal(seen[outside], WHOLE.pixels[outside])
    assert (seen[~outside] == -1).all()


def test_margins_and_crop_cover_each_pixel_once():
    for top, height in itertools.combinations(range(6), 2):
        for left, width in itertools.combinations(range(5), 2):
            crop = Box(top, left, height - top, width - left)
            covered = np.zeros((5, 4), int)
            for box in [crop, *margin_boxes((5, 4), crop)]:
                assert box.height > 0 and box.width > 0
                covered[box.slices] += 1
            assert (covered == 1).all()


def test_without_a_crop_everything_is_used():
    encoded = encode(_radiograph(_pixels(5, 9)), PATCH)
    assert encoded.entry.crop == Box(0, 0, 5, 9)
    assert encoded.margins == []
    np.testing.assert_array_equal(tile_of(encoded.levels[0][0]), _pixels(5, 9))


def test_the_hash_is_sha256_of_shape_and_values():
    pixels = _pixels(4, 6)
    expected = hashlib.sha256(b"(4, 6)" + pixels.astype("<u2").tobytes()).hexdigest()
    assert pixel_hash(pixels) == expected
    assert encode(_radiograph(pixels, crop=Box(0, 0, 2, 2)), PATCH).entry.sha256 == expected
    assert pixel_hash(_pixels(4, 12)[:, ::2]) == pixel_hash(_pixels(4, 12)[:, ::2].copy())
    flipped = pixels.copy()
    flipped[3, 5] ^= 1
    assert len({pixel_hash(p) for p in (pixels, pixels.reshape(6, 4), flipped)}) == 3


def test_a_damaged_tile_is_reported():
    record = encode(WHOLE, PATCH).levels[0][0]
    damaged = bytearray(record)
    damaged[record.index(b"fjx1") + 20] ^= 1
    with pytest.raises(codec.CorruptTileError):
        tile_of(bytes(damaged))


def test_the_same_radiograph_gives_the_same_bytes():
    assert encode(WHOLE, PATCH) == encode(dataclasses.replace(WHOLE), PATCH)


def test_tiles_cost_little_more_than_the_image():
    """All levels take less than 1 + 1/4 + 1/16 + ... of the whole image, plus 10%."""
    rng = np.random.default_rng(0)
    picture = scipy.ndimage.gaussian_filter(rng.normal(size=(500, 375)), 10)
    picture = scipy.ndimage.zoom(picture / abs(picture).max(), 4, order=1)
    pixels = np.round(2000 + 1800 * picture + rng.normal(0, 15, picture.shape)).astype(np.uint16)
    assert pixels.shape == (2000, 1500)
    whole = len(codec.encode(pixels))
    levels = encode(_radiograph(pixels), 256).levels
    assert [len(records) for records in levels] == [1, 4, 12, 48]
    assert sum(map(len, levels[-1])) < 1.1 * whole
    assert sum(len(record) for records in levels for record in records) < 1.1 * 4 / 3 * whole
