import json
import math
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from femur_jax.data import shards
from femur_jax.data.pyramid import pyramid
from femur_jax.data.radiograph import Box, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.errors import UserError
from femur_jax.files import write_checksums

PATCH = 16
SIZES = ((16, 16), (32, 48), (33, 50), (5, 9), (16, 100), (131, 70), (1, 40))
CROPS = {1: Box(4, 7, 20, 33), 4: Box(0, 20, 16, 80), 5: Box(1, 0, 130, 69)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _radiograph(height, width, seed=0, **fields):
    pixels = np.random.default_rng(seed).integers(0, 65536, (height, width), np.uint16)
    known = {"name": f"n{seed}", "label": "AFF", "patient": f"p{seed // 2}", "hospital": "h"}
    return Radiograph(pixels, **(known | fields))


RADIOGRAPHS = [
    (
        "train" if n < 5 else "test",
        _radiograph(*size, n, label=("NFF", "AFF")[n % 2], crop=CROPS.get(n)),
    )
    for n, size in enumerate(SIZES)
]


def _used(n):
    """The pixels of a radiograph inside its crop."""
    crop = CROPS.get(n) or Box(0, 0, *SIZES[n])
    return RADIOGRAPHS[n][1].pixels[crop.slices]


def _write(folder, radiographs=RADIOGRAPHS, patch=PATCH):
    with DatasetWriter(folder, patch=patch, provenance={"kind": "test", "n": 3}) as writer:
        for split, radiograph in radiographs:
            writer.add(encode(radiograph, patch), split)
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
        levels = pyramid(_used(n), PATCH)
        assert written.level_sizes(n) == [level.shape for level in levels]
        for level, pixels in enumerate(levels):
            np.testing.assert_array_equal(written.read(n, level), pixels)
        np.testing.assert_array_equal(written.read(n), _used(n))
        np.testing.assert_array_equal(written.read_recorded(n), radiograph.pixels)
        entry = written.entries[n]
        assert (entry.split, entry.label, entry.name) == (split, radiograph.label, f"n{n}")
        assert (entry.height, entry.width) == _used(n).shape
        assert entry.recorded == SIZES[n]


def _clipped(pixels, origin, size):
    """The nearest pixel to every pixel of a window."""
    rows, columns = (
        np.clip(np.arange(start, start + length), 0, side - 1)
        for start, length, side in zip(origin, size, pixels.shape, strict=True)
    )
    return pixels[np.ix_(rows, columns)]


def test_windows_repeat_the_nearest_pixel(written):
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(400):
        n = int(rng.integers(len(SIZES)))
        level = int(rng.integers(len(written.level_sizes(n))))
        pixels = pyramid(_used(n), PATCH)[level]
        size = tuple(int(s) for s in rng.integers(1, 2 * PATCH, 2))
        origin = tuple(int(rng.integers(-30, side + 10)) for side in pixels.shape)
        window = written.window(n, level, origin, size)
        np.testing.assert_array_equal(window, _clipped(pixels, origin, size))
        axes = zip(origin, size, pixels.shape, strict=True)
        outside += any(start >= side or start + length <= 0 for start, length, side in axes)
    assert 50 < outside < 350


@pytest.mark.parametrize("origin", [(-3, -4), (-3, 60), (120, -4), (120, 60), (-3, 20), (50, -4)])
def test_windows_across_each_border(written, origin):
    window = written.window(5, 4, origin, (PATCH, PATCH))
    np.testing.assert_array_equal(window, _clipped(_used(5), origin, (PATCH, PATCH)))


@pytest.mark.parametrize("origin", [(-99, -99), (-99, 30), (60, -99), (999, 999), (-99, 999)])
def test_windows_wholly_outside(written, origin):
    window = written.window(5, 4, origin, (PATCH, PATCH))
    np.testing.assert_array_equal(window, _clipped(_used(5), origin, (PATCH, PATCH)))


def test_a_window_may_hold_everything(written):
    window = written.window(5, 4, (-20, -30), (200, 150))
    np.testing.assert_array_equal(window, _clipped(_used(5), (-20, -30), (200, 150)))


def test_a_patch_touches_at_most_four_records(written, monkeypatch):
    reads = []
    tile_of = shards.tile_of
    monkeypatch.setattr(shards, "tile_of", lambda record: reads.append(1) or tile_of(record))
    most = []
    for y in range(-20, 131, 5):
        for x in range(-20, 70, 5):
            reads.clear()
            written.window(5, 4, (y, x), (PATCH, PATCH))
            most.append(len(reads))
    assert (min(most), max(most)) == (1, 4)
    reads.clear()
    written.window(5, 4, (2 * PATCH, PATCH), (PATCH, PATCH))
    assert len(reads) == 1


# TFDS must work without TensorFlow, which a container image for accelerators may lack.
READ_WITHOUT_TENSORFLOW = """
import importlib.machinery, importlib.util, json, sys

find_spec = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, *rest: (
    None if name.split(".")[0] == "tensorflow" else find_spec(name, *rest)
)
assert importlib.util.find_spec("tensorflow") is None
import numpy as np
import tensorflow_datasets as tfds

tiles = []
for section in sys.argv[2:]:
    builder = tfds.builder_from_directory(f"{sys.argv[1]}/{section}")
    for split, source in builder.as_data_source().items():
        for record in source:
            tile = record.pop("tile")
            assert tile.dtype == np.uint16
            fields = {key: value.decode() if isinstance(value, bytes) else np.asarray(value).item()
                      for key, value in record.items()}
            fields["label"] = builder.info.features["label"].int2str(fields["label"])
            tiles.append([section, split, fields, tile.tolist()])
from femur_jax.data.shards import RadiographDataset
assert RadiographDataset(sys.argv[1]).read(0).size
assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
json.dump(tiles, sys.stdout)
"""


@pytest.fixture(scope="module")
def tfds_records(written):
    """Every record, read by TFDS without TensorFlow."""
    sections = [*(f"level_{level}" for level in range(written.levels)), "margins"]
    command = [sys.executable, "-c", READ_WITHOUT_TENSORFLOW, written.folder, *sections]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_tfds_reads_every_record_without_tensorflow(written, tfds_records):
    covered = {}
    for section, split, fields, tile in tfds_records:
        n = int(fields["radiograph"].removeprefix("n"))
        radiograph = RADIOGRAPHS[n][1]
        if section == "margins":
            pixels = radiograph.pixels
        else:
            pixels = pyramid(_used(n), PATCH)[int(section.removeprefix("level_"))]
        y, x = fields["row"], fields["column"]
        height, width = np.shape(tile)
        np.testing.assert_array_equal(tile, pixels[y : y + height, x : x + width])
        assert section == "margins" or max(height, width) <= PATCH
        assert (fields["height"], fields["width"]) == pixels.shape
        assert RADIOGRAPHS[n][0] == split
        assert fields["label"] == radiograph.label
        assert (fields["patient"], fields["hospital"]) == (f"p{n // 2}", "h")
        assert fields["spacing_mm"] == 0
        covered[n, section] = covered.get((n, section), 0) + height * width
    for n in range(len(SIZES)):
        sizes = written.level_sizes(n)
        expected = {f"level_{level}": math.prod(size) for level, size in enumerate(sizes)}
        if n in CROPS:
            expected["margins"] = math.prod(SIZES[n]) - _used(n).size
        assert {section: area for (m, section), area in covered.items() if m == n} == expected


def test_tfds_knows_the_number_of_records(written, tfds_records):
    counts = {}
    for section, split, *_ in tfds_records:
        counts[section, split] = counts.get((section, split), 0) + 1
    sections = {section for section, _ in counts}
    assert counts == {
        (section, name): split.num_examples
        for section in sections
        for name, split in tfds.builder_from_directory(written.folder / section).info.splits.items()
    }


def test_records_are_found_in_any_order(written):
    """The position of a radiograph's records does not depend on what was read before."""
    for n in np.random.default_rng(0).permutation(len(SIZES)):
        fresh = RadiographDataset(written.folder)
        np.testing.assert_array_equal(fresh.read_recorded(int(n)), RADIOGRAPHS[n][1].pixels)


def test_a_dataset_travels_to_a_worker(written):
    written.read(0)
    again = pickle.loads(pickle.dumps(written))
    np.testing.assert_array_equal(again.read(5), _used(5))


def test_a_missing_split_by_hospital_is_reported(written):
    with pytest.raises(UserError, match="no test split by hospital"):
        written.split("test", by="hospital")


def test_splits_by_hospital(tmp_path):
    with DatasetWriter(tmp_path / "d", patch=16, provenance={}) as writer:
        for n, (split, by_hospital) in enumerate(
            [("train", "test"), ("train", "train"), ("train", ""), ("test", "train")]
        ):
            writer.add(encode(_radiograph(9, 9, n), 16), split, by_hospital)
    dataset = RadiographDataset(tmp_path / "d")
    assert dataset.split("train", by="hospital") == [1, 3]
    assert dataset.split("test", by="hospital") == [0]
    assert dataset.split("train") == [0, 1, 2]


def test_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("femur_jax.data.shards._SHARD_BYTES", 4000)
    radiographs = [("train", _radiograph(33, 50, n)) for n in range(6)]
    dataset = _write(tmp_path / "d", radiographs)
    assert len(list((tmp_path / "d" / "level_2").glob("*.array_record-*-of-*"))) > 2
    for n, (_, radiograph) in enumerate(radiographs):
        np.testing.assert_array_equal(dataset.read(n), radiograph.pixels)


def test_wrong_use_is_reported(tmp_path):
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
    assert not (tmp_path / "new").exists()


def test_an_exception_leaves_nothing(tmp_path):
    with (
        pytest.raises(KeyError),
        DatasetWriter(tmp_path / "d", patch=16, provenance={}) as writer,
    ):
        writer.add(encode(RADIOGRAPHS[1][1], 16), "train")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter
radiograph = Radiograph(np.zeros((40, 40), np.uint16), "n", "AFF", "p", "h")
with DatasetWriter(Path(sys.argv[1]), patch=16, provenance={}) as writer:
    for n in range(9):
        writer.add(encode(radiograph, 16), "train")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_remains_of_a_killed_writer_are_replaced(tmp_path):
    folder, partial = tmp_path / "d", tmp_path / "d.partial"
    run = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, folder], cwd=Path(__file__).parents[2]
    )
    assert run.returncode == -signal.SIGKILL
    assert not folder.exists() and partial.exists()
    (partial / "left").write_text("")
    dataset = _write(folder)
    assert not partial.exists()
    assert not (folder / "left").exists()
    assert len(dataset.entries) == len(RADIOGRAPHS)


def test_each_damaged_file_is_named_when_opened(tmp_path):
    folder = tmp_path / "d"
    _write(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {path.parent.name for path in files} == {
        "d",
        "margins",
        *(f"level_{level}" for level in range(5)),
    }
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        flipped = bytearray(whole)
        # A changed byte at the start of the manifest may change the schema's number.
        flipped[int(rng.integers(len(whole) // 2, len(whole)))] ^= 1
        for damaged in (b"", whole[: len(whole) // 2], whole[:-1], bytes(flipped)):
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=r"missing or damaged|is damaged") as error:
                RadiographDataset(folder)
            assert str(file) in str(error.value) or file.name == "SHA256SUMS"
        file.unlink()
        with pytest.raises(UserError, match=file.name):
            RadiographDataset(folder)
        file.write_bytes(whole)
    RadiographDataset(folder)


def test_sha256sum_accepts_a_dataset(written):
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=written.folder).returncode == 0
    lines = (written.folder / "SHA256SUMS").read_text().splitlines()
    there = {p.relative_to(written.folder) for p in written.folder.rglob("*") if p.is_file()}
    assert {line[66:] for line in lines} == {str(path) for path in there} - {"SHA256SUMS"}


def _damage_unseen(file, content):
    """Changes a file but keeps its size and modification time, as a failing disk does."""
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_changed_bytes_are_detected_when_read(tmp_path):
    """Opening does not read a verified file again."""
    folder = tmp_path / "d"
    _write(folder)
    shard = next((folder / "level_0").glob("*train*record*"))
    intact = shard.read_bytes()
    rng, detected = np.random.default_rng(0), 0
    for position in rng.integers(0, 4000, 60):  # the records, without the padding after them
        damaged = bytearray(intact)
        damaged[position] ^= int(rng.integers(1, 256))
        _damage_unseen(shard, bytes(damaged))
        dataset = RadiographDataset(folder)
        try:
            for n in range(5):
                expected = pyramid(_used(n), PATCH)[0]
                np.testing.assert_array_equal(dataset.read(n, 0), expected)
        except UserError as error:
            assert "level_0" in str(error)
            detected += 1
    assert detected > 5


def test_a_shard_that_opens_as_empty_is_detected_when_read(tmp_path):
    """ArrayRecord opens a file whose end is missing as empty, without an error."""
    folder = tmp_path / "d"
    _write(folder)
    shard = next((folder / "level_0").glob("*train*record*"))
    _damage_unseen(shard, bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=r"train split in .*level_0"):
        RadiographDataset(folder).read(0, 0)


def test_other_manifests_are_reported(tmp_path):
    folder = tmp_path / "d"
    _write(folder)
    manifest = json.loads((folder / "dataset.json").read_text())
    for damaged, named in (
        ("{", "damaged"),
        ("\x00", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        (json.dumps(manifest | {"schema": 99}), "schema 99"),
        (json.dumps({**manifest, "radiographs": [{"height": 3}]}), "damaged"),
    ):
        (folder / "dataset.json").write_text(damaged)
        with pytest.raises(UserError, match=named):
            RadiographDataset(folder)


def test_a_manifest_of_another_shape_is_reported(tmp_path):
    """Another program may write such a manifest, with valid checksums."""
    folder = tmp_path / "d"
    _write(folder)
    manifest = json.loads((folder / "dataset.json").read_text())
    for damaged in (
        {**manifest, "radiographs": [{"height": 3}]},
        {**manifest, "radiographs": 7},
        {key: value for key, value in manifest.items() if key != "patch"},
    ):
        (folder / "dataset.json").write_text(json.dumps(damaged))
        write_checksums(folder)
        with pytest.raises(UserError, match=r"dataset\.json is damaged"):
            RadiographDataset(folder)
