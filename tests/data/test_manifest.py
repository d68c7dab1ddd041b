"""Manifests and tiles that contradict themselves: refused in one sentence, whatever they say."""

import copy
import json
import shutil

import numpy as np
import pytest

from femur_jax.data import codec
from femur_jax.data.radiograph import Box, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.errors import UserError
from femur_jax.files import write_checksums

PATCH = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _write(folder):
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, patch=PATCH, provenance={"kind": "real", "columns": ["a"]}) as out:
        for n, (split, size) in enumerate((("train", (20, 30)), ("test", (40, 17)))):
            pixels = rng.integers(0, 65536, size, np.uint16)
            radiograph = Radiograph(
                pixels, f"n{n}", "AFF", f"p{n}", "h", crop=Box(1, 2, 15, 14), columns={"a": 0.5}
            )
            out.add(encode(radiograph, PATCH), split)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("manifest") / "dataset")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "dataset")


def _places(value, path=()):
    """All places in a tree of JSON."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*path, key))


def _mutated(tree, place, value):
    """A copy with another value at a place, or without it where the value is DELETED."""
    tree = copy.deepcopy(tree)
    *above, last = place
    parent = tree
    for key in above:
        parent = parent[key]
    if value is DELETED:
        del parent[last]
    else:
        parent[last] = value
    return tree


def _read_everything(folder):
    dataset = RadiographDataset(folder)
    for n in range(len(dataset.entries)):
        dataset.read_recorded(n)
        for level in range(len(dataset.level_sizes(n))):
            dataset.read(n, level)
    assert set(dataset.split("train")) < {0, 1}
    assert isinstance(dataset.provenance.get("kind", ""), str)


DELETED = object()
VALUES = (DELETED, None, True, 0, -1, 1, 3, 0.5, 1 << 70, float("nan"), float("inf"), "", "x")
VALUES += ("\ud800", "../../x", [], [0], {}, {"x": []})


def test_a_mutated_manifest_is_refused_or_harmless(folder):
    """Whoever changes a manifest can write its checksums as well."""
    whole = json.loads((folder / "dataset.json").read_text())
    places = [place for place in _places(whole) if place]
    rng, refused = np.random.default_rng(0), 0
    _read_everything(folder)
    for _ in range(150):
        place, value = places[rng.integers(len(places))], VALUES[rng.integers(len(VALUES))]
        text = json.dumps(_mutated(whole, place, value))
        (folder / "dataset.json").write_text(text)
        write_checksums(folder)
        try:
            _read_everything(folder)
        except UserError as error:
            assert str(error).count(". ") == 0, error
            refused += 1
    assert 75 < refused < 150


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("patch",), value) for value in (0, -16, 15, 16.0, "16", True, None, float("nan"))),
        (("radiographs", 0, "height"), 16),
        (("radiographs", 0, "recorded"), [20, 1 << 40]),
        (("radiographs", 0, "crop"), [-1, 2, 15, 14]),
        (("radiographs", 0, "spacing_mm"), float("nan")),
        (("radiographs", 0, "label"), "aff"),
        (("radiographs", 0, "split"), ""),
        (("radiographs", 0, "columns"), {"a": "70"}),
        (("radiographs", 0, "source", "limits"), [0, 1]),
        (("radiographs", 1), DELETED),
        (("records",), {}),
        (("records", "../level_0/x"), 1),
        (("provenance",), []),
        (("provenance", "columns"), 3),
    ],
)
def test_impossible_values_are_refused_when_opened(folder, place, value):
    whole = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(_mutated(whole, place, value)))
    write_checksums(folder)
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        RadiographDataset(folder)


def test_a_tile_smaller_than_its_place_is_refused(tmp_path, monkeypatch):
    """Memory that nothing was written to would fill the rest."""
    encode_tile = codec.encode
    monkeypatch.setattr(codec, "encode", lambda pixels: encode_tile(pixels[:-1]))
    folder = _write(tmp_path / "short")
    dataset = RadiographDataset(folder)
    with pytest.raises(UserError, match=r"level_0 cannot be read or is damaged"):
        dataset.read(0, 0)
    with pytest.raises(UserError, match=r"cannot be read or is damaged"):
        dataset.read_recorded(0)
