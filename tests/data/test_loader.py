import jax
import numpy as np
import pytest

from femur_jax.data.loader import (
    Pool,
    batches,
    cut_patch,
    last_origin,
    random_letterboxes,
    random_patches,
)
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.shards import DatasetWriter, RadiographDataset, encode
from femur_jax.errors import UserError

PATCH = 16
SIZES = ((64, 40), (33, 57), (10, 12), (130, 21), (16, 16), (90, 90))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six radiographs, one of them AFF, all for training."""
    folder = tmp_path_factory.mktemp("loader") / "dataset"
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, patch=PATCH, provenance={}) as writer:
        for n, size in enumerate(SIZES):
            pixels = rng.integers(0, 65536, size, np.uint16)
            radiograph = Radiograph(pixels, LABELS[n == 1], f"p{n}", "h", 0.1 * n)
            writer.add(encode(radiograph, "train", PATCH))
    return RadiographDataset(folder)


def _context_in_float64(coarse, origin):
    """The coarse level at the fine pixels' centres, border repeated."""
    rows, columns = ((np.arange(PATCH) + start + 0.5) / 2 - 0.5 for start in origin)
    coarse = coarse.astype(np.float64)
    height, width = coarse.shape
    along = np.stack([np.interp(columns, np.arange(width), row) for row in coarse])
    return np.stack([np.interp(rows, np.arange(height), column) for column in along.T], axis=1)


@pytest.mark.parametrize("radiograph", range(len(SIZES)))
def test_patches_and_their_context(data, radiograph):
    for level, (height, width) in enumerate(data.level_sizes(radiograph)):
        for y in {0, 2, 6, last_origin(height, PATCH)}:
            for x in {0, 4, last_origin(width, PATCH)}:
                patch = cut_patch(data, radiograph, level, (y, x))
                pixels = data.read(radiograph, level)
                padded = np.pad(pixels, ((0, 2 * PATCH), (0, 2 * PATCH)), mode="edge")
                expected = padded[y : y + PATCH, x : x + PATCH]
                np.testing.assert_array_equal(patch["pixels"], expected)
                if level == 0:
                    assert not patch["context"].any()
                    continue
                context = _context_in_float64(data.read(radiograph, level - 1), (y, x))
                assert abs(patch["context"] - context).max() <= 0.51
                assert tuple(patch["origin"]) == (y, x)
                assert tuple(patch["level_size"]) == (height, width)
                assert tuple(patch["size"]) == SIZES[radiograph]
                assert patch["level"] == level
                assert patch["label"] == (radiograph == 1)
                assert patch["spacing_mm"] == np.float32(0.1 * radiograph)


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 0), (16, 0), (17, 2), (18, 2), (19, 4), (40, 24), (41, 26)]
)
def test_the_last_origin_reaches_the_border(length, expected):
    assert last_origin(length, PATCH) == expected


def _draw(samples, count):
    return [samples[n] for n in range(count)]


def _assert_share(count, total, expected):
    """Within four standard deviations of a binomial count."""
    assert abs(count - total * expected) <= 4 * np.sqrt(total * expected * (1 - expected)) + 1e-9


@pytest.mark.parametrize(("shares", "aff"), [((), 1 / 6), ((0.5, 0.5), 0.5), ((1.0, 0.0), 0.0)])
def test_labels_are_drawn_as_asked(data, shares, aff):
    pool, rng = Pool([data], label_shares=shares), np.random.default_rng(0)
    drawn = [pool.draw(rng)[1] for _ in range(3000)]
    _assert_share(drawn.count(1), len(drawn), aff)
    for n in (0, 2, 3, 4, 5):  # within a label, all alike
        _assert_share(drawn.count(n), len(drawn), (1 - aff) / 5)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 3.0), (0.2, 0.0, 0.8)])
def test_levels_are_drawn_as_asked(data, weights):
    patches = _draw(random_patches(Pool([data]), level_weights=weights, seed=0), 900)
    for n, size in enumerate(SIZES):
        own = [int(p["level"]) for p in patches if tuple(p["size"]) == size]
        full = [weights[min(level, len(weights) - 1)] for level in range(len(data.level_sizes(n)))]
        for level, weight in enumerate(full):
            _assert_share(own.count(level), len(own), weight / sum(full))


def test_radiographs_without_a_level_to_draw_are_told(data):
    with pytest.raises(UserError, match="0 for the first 1 levels"):
        random_patches(Pool([data]), level_weights=(0.0, 1.0), seed=0)


def test_places_are_even_and_reach_everything(data):
    patches = _draw(random_patches(Pool([data]), level_weights=(0.0001, 1.0), seed=1), 1500)
    finest = [p for p in patches if tuple(p["level_size"]) == (64, 40)]
    origins = {tuple(int(v) for v in p["origin"]) for p in finest}
    assert {y for y, _ in origins} == set(range(0, 50, 2))
    assert {x for _, x in origins} == set(range(0, 26, 2))


def test_samples_depend_on_seed_and_position_alone(data):
    pool = Pool([data])
    first = random_patches(pool, level_weights=(1.0,), seed=0)
    again = random_patches(pool, level_weights=(1.0,), seed=0)
    other = random_patches(pool, level_weights=(1.0,), seed=1)
    for n in (0, 1, 7, 10**9):
        np.testing.assert_array_equal(first[n]["pixels"], again[n]["pixels"])
    assert any((first[n]["origin"] != other[n]["origin"]).any() for n in range(20))
    assert any((first[n]["origin"] != first[n + 1]["origin"]).any() for n in range(20))


@pytest.fixture
def sharding():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _take(iterator, count):
    return [jax.tree.map(np.asarray, next(iterator)) for _ in range(count)]


def _assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("kind", ["patches", "letterboxes"])
def test_batches_are_the_stream_in_order(data, sharding, kind):
    pool = Pool([data])
    if kind == "patches":
        samples = random_patches(pool, level_weights=(1.0,), seed=3)
    else:
        samples = random_letterboxes(pool, side=20, seed=3)
    taken = _take(batches(samples, batch_size=4, start=0, sharding=sharding), 3)
    for step, batch in enumerate(taken):
        singles = _draw(samples, 12)[4 * step : 4 * step + 4]
        _assert_equal(batch, {name: np.stack([s[name] for s in singles]) for name in singles[0]})


def test_a_start_leaves_out_batches(data, sharding):
    samples = random_patches(Pool([data]), level_weights=(1.0,), seed=3)
    whole = _take(batches(samples, batch_size=4, start=0, sharding=sharding), 6)
    late = _take(batches(samples, batch_size=4, start=4, sharding=sharding), 2)
    for first, second in zip(whole[4:], late, strict=True):
        _assert_equal(first, second)


def test_processes_share_out_the_stream(data, sharding, monkeypatch):
    samples = random_patches(Pool([data]), level_weights=(1.0,), seed=3)
    [single] = _take(batches(samples, batch_size=6, start=0, sharding=sharding), 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    # What two processes would see; each puts its own part on its devices.
    monkeypatch.setattr(jax, "make_array_from_process_local_data", lambda sharding, value: value)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts += _take(batches(samples, batch_size=6, start=0, sharding=sharding), 1)
    assert len(parts[0]["label"]) == 3
    for name, value in single.items():
        interleaved = np.stack([parts[0][name], parts[1][name]], axis=1).reshape(value.shape)
        np.testing.assert_array_equal(interleaved, value)


def test_pools_join_datasets(data, dataset):
    pool = Pool([data, dataset])
    assert len(pool.radiographs) == len(SIZES) + len(dataset.split("train"))
    assert pool.radiographs[0] == (data, 0)
    assert pool.radiographs[-1][0] is dataset


def test_a_missing_class_is_told(data, monkeypatch):
    only = [e for e in data.entries if e.label == "NFF"]
    monkeypatch.setattr(data, "entries", only)
    with pytest.raises(UserError, match="no radiograph with label AFF"):
        Pool([data], label_shares=(0.5, 0.5))
    assert len(Pool([data]).radiographs) == 5
    assert len(Pool([data], label_shares=(1.0, 0.0)).radiographs) == 5
    with pytest.raises(UserError, match="validation split"):
        Pool([data], split="validation")
