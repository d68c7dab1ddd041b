import json
import math
import signal
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage

from femur_jax.data import codec
from femur_jax.data.pyramid import pyramid
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.shards import DatasetWriter, RadiographDataset, encode
from femur_jax.errors import UserError

PATCH = 16
SIZES = ((16, 16), (32, 48), (33, 50), (5, 9), (16, 100), (131, 70), (1, 40))


def _radiograph(height, width, seed=0, **fields):
    pixels = np.random.default_rng(seed).integers(0, 65536, (height, width), np.uint16)
    return Radiograph(pixels, **({"label": "AFF", "patient": "p", "hospital": "h"} | fields))


RADIOGRAPHS = [
    ("train" if n < 5 else "test", _radiograph(*size, n, label=("NFF", "AFF")[n % 2]))
    for n, size in enumerate(SIZES)
]


def _write(folder, radiographs=RADIOGRAPHS, patch=PATCH):
    with DatasetWriter(folder, patch=patch, provenance={"kind": "test", "n": 3}) as writer:
        for split, radiograph in radiographs:
            writer.add(encode(radiograph, split, patch))
    return RadiographDataset(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("shards") / "dataset")


def test_read_back(written):
    assert written.patch == PATCH
    assert written.provenance == {"kind": "test", "n": 3}
    assert written.split("train") == [0, 1, 2, 3, 4]
    assert written.split("validation") == []
    assert written.split("test") == [5, 6]
    assert written.levels == 5
    for n, (split, radiograph) in enumerate(RADIOGRAPHS):
        levels = pyramid(radiograph.pixels, PATCH)
        assert written.level_sizes(n) == [level.shape for level in levels]
        for level, pixels in enumerate(levels):
            np.testing.assert_array_equal(written.read(n, level), pixels)
        np.testing.assert_array_equal(written.read(n), radiograph.pixels)
        entry = written.entries[n]
        assert (entry.split, entry.label, entry.patient) == (split, radiograph.label, "p")
        assert (entry.height, entry.width) == SIZES[n]


def test_windows_are_cut_from_the_padded_image(written):
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(len(SIZES)))
        levels = pyramid(RADIOGRAPHS[n][1].pixels, PATCH)
        level = int(rng.integers(len(levels)))
        pixels, margin = levels[level], 40
        size = tuple(int(s) for s in rng.integers(1, 2 * PATCH, 2))
        origin = tuple(int(rng.integers(-30, side + 8)) for side in pixels.shape)
        padded = np.pad(pixels, margin, mode="edge")
        expected = padded[
            margin + origin[0] : margin + origin[0] + size[0],
            margin + origin[1] : margin + origin[1] + size[1],
        ]
        np.testing.assert_array_equal(written.window(n, level, origin, size), expected)


def test_a_patch_touches_at_most_four_records(written, monkeypatch):
    reads = []
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda data: reads.append(1) or decode(data))
    most = 0
    for y in range(-20, 131, 5):
        for x in range(-20, 70, 5):
            reads.clear()
            written.window(5, 4, (y, x), (PATCH, PATCH))
            most = max(most, len(reads))
    assert most == 4


def test_records_hold_what_the_level_is_made_of(written):
    import tensorflow_datasets as tfds

    for level in range(written.levels):
        builder = tfds.builder_from_directory(written.folder / f"level_{level}")
        for split, source in builder.as_data_source().items():
            seen = {}
            for record in source:
                n, tile = int(record["radiograph"]), codec.decode(record["tile"])
                pixels = pyramid(RADIOGRAPHS[n][1].pixels, PATCH)[level]
                y, x = int(record["row"]), int(record["column"])
                np.testing.assert_array_equal(tile, pixels[y : y + PATCH, x : x + PATCH])
                assert (record["height"], record["width"]) == pixels.shape
                assert RADIOGRAPHS[n][0] == split
                assert builder.info.features["label"].int2str(record["label"]) == "NA"[n % 2] + "FF"
                seen[n] = seen.get(n, 0) + tile.size
            for n, covered in seen.items():
                assert covered == math.prod(written.level_sizes(n)[level])


READ_WITHOUT_TENSORFLOW = """
import sys
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
print(sum(len(builder.as_data_source(split)) for split in builder.info.splits))
assert all(record["tile"] for record in builder.as_data_source("train"))
assert "tensorflow" not in sys.modules
"""


def test_tfds_reads_a_level_without_tensorflow(written):
    level = written.folder / "level_1"
    command = [sys.executable, "-c", READ_WITHOUT_TENSORFLOW, level]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = sum(
        math.prod(math.ceil(side / PATCH) for side in written.level_sizes(n)[1])
        for n in range(len(SIZES))
        if len(written.level_sizes(n)) > 1
    )
    assert int(run.stdout) == expected


def test_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("femur_jax.data.shards._SHARD_BYTES", 4000)
    radiographs = [("train", _radiograph(33, 50, n)) for n in range(6)]
    dataset = _write(tmp_path / "d", radiographs)
    assert len(list((tmp_path / "d" / "level_2").glob("*.array_record-*-of-*"))) > 2
    for n, (_, radiograph) in enumerate(radiographs):
        np.testing.assert_array_equal(dataset.read(n), radiograph.pixels)


def test_every_field_comes_back(tmp_path):
    radiograph = _radiograph(
        20, 10, spacing_mm=0.143, spacing_source="calibrated", view="lateral", laterality="R"
    )
    entry = _write(tmp_path / "d", [("validation", radiograph)]).entries[0]
    for field in ("label", "patient", "hospital", "spacing_mm", "spacing_source", "view"):
        assert getattr(entry, field) == getattr(radiograph, field)
    assert entry.laterality == "R"


def test_tiles_cost_little_more_than_the_image(tmp_path):
    rng = np.random.default_rng(0)
    picture = scipy.ndimage.gaussian_filter(rng.normal(size=(500, 375)), 10)
    picture = scipy.ndimage.zoom(picture / abs(picture).max(), 4, order=1)
    pixels = np.round(2000 + 1800 * picture + rng.normal(0, 15, picture.shape)).astype(np.uint16)
    assert pixels.shape == (2000, 1500)
    whole = len(codec.encode(pixels))
    encoded = encode(Radiograph(pixels, "AFF", "p", "h"), "train", 256)
    assert len(encoded.levels[-1]) == 8 * 6
    assert sum(map(len, encoded.levels[-1])) < 1.1 * whole


def test_wrong_use_is_told(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists"):
        DatasetWriter(tmp_path / "there", patch=16, provenance={})
    for patch in (0, 15, -2, 100_000):
        with pytest.raises(UserError, match=f"patch is {patch}"):
            DatasetWriter(tmp_path / "new", patch=patch, provenance={})
    with pytest.raises(UserError, match="holds no radiograph dataset"):
        RadiographDataset(tmp_path / "there")
    with pytest.raises(ValueError, match="train comes after test"):
        _write(tmp_path / "new", RADIOGRAPHS[::-1])


def test_an_exception_leaves_nothing(tmp_path):
    with (
        pytest.raises(KeyError),
        DatasetWriter(tmp_path / "d", patch=16, provenance={}) as writer,
    ):
        writer.add(encode(RADIOGRAPHS[1][1], "train", 16))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.shards import DatasetWriter, encode
with DatasetWriter(Path(sys.argv[1]), patch=16, provenance={}) as writer:
    for n in range(9):
        writer.add(encode(Radiograph(np.zeros((40, 40), np.uint16), "AFF", "p", "h"), "train", 16))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_replaced(tmp_path):
    folder, partial = tmp_path / "d", tmp_path / "d.partial"
    run = subprocess.run([sys.executable, "-c", KILLED_WRITER, folder])
    assert run.returncode == -signal.SIGKILL
    assert not folder.exists() and partial.exists()
    (partial / "left").write_text("")
    dataset = _write(folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert not (folder / "left").exists()
    assert len(dataset.entries) == len(RADIOGRAPHS)


def _shards(folder):
    return sorted(folder.glob("level_*/*.array_record*"))


def test_missing_and_truncated_shards_are_found_when_opened(tmp_path):
    folder = tmp_path / "d"
    _write(folder)
    for shard in _shards(folder):
        whole = shard.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            shard.write_bytes(whole[:length])
            with pytest.raises(UserError, match=shard.name):
                RadiographDataset(folder)
        shard.unlink()
        with pytest.raises(UserError, match=shard.name):
            RadiographDataset(folder)
        shard.write_bytes(whole)
    RadiographDataset(folder)


def test_changed_bytes_are_found_when_read(tmp_path):
    dataset = _write(tmp_path / "d")
    shard = next((tmp_path / "d" / "level_0").glob("*train*"))
    intact = shard.read_bytes()
    rng, found = np.random.default_rng(0), 0
    for place in rng.integers(0, 4000, 60):  # where the records lie; after them comes padding
        damaged = bytearray(intact)
        damaged[place] ^= int(rng.integers(1, 256))
        shard.write_bytes(bytes(damaged))
        dataset = RadiographDataset(tmp_path / "d")
        try:
            for n in range(5):
                expected = pyramid(RADIOGRAPHS[n][1].pixels, PATCH)[0]
                np.testing.assert_array_equal(dataset.read(n, 0), expected)
        except UserError as error:
            assert "level_0" in str(error)
            found += 1
    assert found > 5


def test_damaged_metadata_is_told(tmp_path):
    folder = tmp_path / "d"
    _write(folder)
    (folder / "level_0" / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="level_0"):
        RadiographDataset(folder).read(0, 0)
    manifest = json.loads((folder / "dataset.json").read_text())
    for damaged, named in (
        ("{", "damaged"),
        ("\x00", "damaged"),
        ("[]", "damaged"),
        (json.dumps(manifest | {"schema": 99}), "schema 99"),
        (json.dumps({**manifest, "radiographs": [{"height": 3}]}), "damaged"),
    ):
        (folder / "dataset.json").write_text(damaged)
        with pytest.raises(UserError, match=named):
            RadiographDataset(folder)
