import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from femur_jax.data import loader
from femur_jax.data.loader import (
    Pool,
    batches,
    cut_patch,
    last_origin,
    random_letterboxes,
    random_origin,
    random_patches,
)
from femur_jax.data.pyramid import double
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
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
            radiograph = Radiograph(pixels, f"r{n}", LABELS[n == 1], f"p{n}", "h", 0.1 * n)
            writer.add(encode(radiograph, PATCH), "train")
    return RadiographDataset(folder)


def _context_in_float64(coarse, origin):
    """The coarse level at the centres of the fine pixels, with a repeated border."""
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
                assert abs(patch["context"][..., 0] - context).max() <= 0.51
                assert tuple(patch["origin"]) == (y, x)
                assert tuple(patch["level_size"]) == (height, width)
                assert tuple(patch["size"]) == SIZES[radiograph]
                assert patch["level"] == level
                assert patch["label"] == (radiograph == 1)
                assert patch["spacing_mm"] == np.float32(0.1 * radiograph)


@pytest.mark.parametrize("side", [PATCH, PATCH // 2])
def test_a_mirrored_patch_is_one_of_the_mirrored_radiograph(tmp_path, side):
    rng = np.random.default_rng(1)
    # Widths that stay even when halved; others are mirrored about another pixel's centre.
    images = [rng.integers(0, 65536, size, np.uint16) for size in ((70, 56), (9, 12), (100, 120))]
    for name, step in (("plain", 1), ("mirrored", -1)):
        with DatasetWriter(tmp_path / name, patch=PATCH, provenance={}) as writer:
            for n, image in enumerate(images):
                radiograph = Radiograph(image[:, ::step], f"r{n}", "AFF", f"p{n}", "h", 0.2)
                writer.add(encode(radiograph, PATCH), "train")
    plain, mirrored = (RadiographDataset(tmp_path / name) for name in ("plain", "mirrored"))
    for n in range(len(images)):
        for level, size in enumerate(plain.level_sizes(n)):
            for y in {0, last_origin(size[0], side)}:
                for x in range(0, last_origin(size[1], side) + 1, 2):
                    patch = cut_patch(plain, n, level, (y, x), side=side, mirrored=True)
                    expected = cut_patch(mirrored, n, level, (y, x), side=side)
                    assert patch.pop("mirrored") == 1 and expected.pop("mirrored") == 0
                    _assert_equal(patch, expected)


def test_a_mirrored_patch_keeps_pixels_and_context_together(data):
    # The whole level is mirrored here, also where its width is odd.
    for n, (_, width) in enumerate(SIZES):
        level = len(data.level_sizes(n)) - 1
        side = 2 * PATCH if level else PATCH
        start = last_origin(width, side)
        patch = cut_patch(data, n, level, (0, start), side=side, mirrored=True)
        shown = min(side, width - start)
        pixels = data.read(n)[:side, ::-1][:, start : start + shown]
        np.testing.assert_array_equal(patch["pixels"][: len(pixels), :shown], pixels)
        if level:
            fine = double(data.read(n, level - 1).astype(np.float32))[:side, :width][:, ::-1]
            fine = fine[:, start : start + shown]
            context = patch["context"][: len(fine), :shown, 0]
            assert abs(context - fine).max() <= 0.51


def test_half_of_the_patches_are_mirrored_where_requested(data):
    [(samples, _)] = random_patches(Pool([data]), level_weights=(1.0,), seed=0, mirror=True)
    _assert_share(sum(int(samples[n]["mirrored"]) for n in range(200)), 200, 0.5)
    assert not any(patch["mirrored"] for patch in _patches(Pool([data]), 20))


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 0), (16, 0), (17, 2), (18, 2), (19, 4), (40, 24), (41, 26)]
)
def test_the_last_origin_reaches_the_border(length, expected):
    assert last_origin(length, PATCH) == expected


@pytest.mark.parametrize(("length", "side"), [(40, 16), (33, 16), (16, 16), (400, 32)])
def test_origins_crowd_at_both_borders(length, side):
    rng = np.random.default_rng(0)
    origins = np.array([random_origin(rng, (length, 16), side)[0] for _ in range(1500)])
    last = last_origin(length, side)
    drawn = np.arange(-(side // 4), last + side // 4 + 1)
    values, expected = np.unique(np.clip(drawn // 2 * 2, 0, last), return_counts=True)
    found, counts = np.unique(origins, return_counts=True)
    np.testing.assert_array_equal(found, values)
    if last:
        assert chisquare(counts, 1500 * expected / len(drawn)).pvalue > 1e-3


def _patches(pool, count, level_weights=(1.0,), seed=0):
    [(samples, _)] = random_patches(pool, level_weights=level_weights, seed=seed)
    return [samples[n] for n in range(count)]


def _assert_share(count, total, expected):
    """Checks that a count is within four standard deviations of the binomial distribution."""
    assert abs(count - total * expected) <= 4 * np.sqrt(total * expected * (1 - expected)) + 1e-9


def test_an_epoch_holds_every_radiograph_once(data):
    positions = Pool([data]).positions(seed=0)
    epochs = [[positions[6 * epoch + n] for n in range(6)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4  # in four different orders


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_out_an_epoch(data, processes):
    positions = Pool([data]).positions(seed=0)
    slices = [{positions[p::processes][n] for n in range(6 // processes)} for p in range(processes)]
    assert sum(map(len, slices)) == 6 and set.union(*slices) == set(range(6))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2), (1.0, 0.0), (3.0, 1.0)])
def test_labels_are_drawn_with_their_shares(data, shares):
    positions = Pool([data], label_shares=shares).positions(seed=0)
    drawn = [positions[n] for n in range(300)]
    aff = shares[1] / sum(shares)
    assert drawn.count(1) == pytest.approx(300 * aff, abs=2)
    for n in (0, 2, 3, 4, 5):  # radiographs of a label are drawn alike
        assert drawn.count(n) == pytest.approx(300 * (1 - aff) / 5, abs=2)


def test_a_split_by_hospital_is_drawn_from(tmp_path):
    with DatasetWriter(tmp_path / "d", patch=PATCH, provenance={}) as writer:
        for n, held in enumerate(("train", "train", "", "test")):
            radiograph = Radiograph(np.eye(9, dtype=np.uint16), f"r{n}", "AFF", f"p{n}", "h")
            writer.add(encode(radiograph, PATCH), "train", held)
    dataset = RadiographDataset(tmp_path / "d")
    assert [n for _, n in Pool([dataset], by="hospital").radiographs] == [0, 1]
    assert [n for _, n in Pool([dataset], split="test", by="hospital").radiographs] == [3]
    with pytest.raises(UserError, match=r"validation split of .* has no radiograph"):
        Pool([dataset], split="validation", by="hospital")


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 3.0), (0.2, 0.0, 0.8)])
def test_levels_are_drawn_with_their_weights(data, weights):
    patches = _patches(Pool([data]), 200, level_weights=weights)
    for n, size in enumerate(SIZES):
        drawn = [int(p["level"]) for p in patches if tuple(p["size"]) == size]
        full = [weights[min(level, len(weights) - 1)] for level in range(len(data.level_sizes(n)))]
        for level, weight in enumerate(full):
            _assert_share(drawn.count(level), len(drawn), weight / sum(full))


def test_radiographs_without_a_level_to_draw_are_reported(data):
    with pytest.raises(UserError, match="0 for the first 1 levels"):
        random_patches(Pool([data]), level_weights=(0.0, 1.0), seed=0)


def test_origins_are_even_and_reach_every_pixel(tmp_path):
    with DatasetWriter(tmp_path / "d", patch=PATCH, provenance={}) as writer:
        radiograph = Radiograph(np.eye(30, 23, dtype=np.uint16), "r", "AFF", "p", "h")
        writer.add(encode(radiograph, PATCH), "train")
    pool = Pool([RadiographDataset(tmp_path / "d")])
    patches = _patches(pool, 100, level_weights=(0.0, 1.0), seed=1)
    origins = [tuple(int(v) for v in p["origin"]) for p in patches]
    assert {y for y, _ in origins} == set(range(0, 15, 2))
    assert {x for _, x in origins} == set(range(0, 9, 2))  # the last overhangs by one


def test_samples_depend_on_seed_and_position_alone(data):
    pool = Pool([data])
    first, again, other = (
        random_patches(pool, level_weights=(1.0,), seed=seed)[0].samples for seed in (0, 0, 1)
    )
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
        streams = random_patches(pool, level_weights=(1.0,), seed=3)
    else:
        streams = random_letterboxes(pool, shapes=[(20, 30)], seed=3)
    taken = _take(batches(streams, batch_size=4, start=0, sharding=sharding), 3)
    for step, batch in enumerate(taken):
        singles = [streams[0].samples[n] for n in range(4 * step, 4 * step + 4)]
        _assert_equal(batch, {name: np.stack([s[name] for s in singles]) for name in singles[0]})


def test_a_start_skips_batches(data, sharding):
    streams = random_patches(Pool([data]), level_weights=(1.0,), seed=3)
    whole = _take(batches(streams, batch_size=4, start=0, sharding=sharding), 6)
    late = _take(batches(streams, batch_size=4, start=4, sharding=sharding), 2)
    for first, second in zip(whole[4:], late, strict=True):
        _assert_equal(first, second)


def test_processes_share_out_the_stream(data, sharding, monkeypatch):
    streams = random_patches(Pool([data]), level_weights=(1.0,), seed=3)
    [single] = _take(batches(streams, batch_size=6, start=0, sharding=sharding), 1)
    # Each of two processes puts its slice on its devices.
    monkeypatch.setattr(jax, "make_array_from_process_local_data", lambda sharding, value, _: value)
    slices = []
    for index in range(2):
        monkeypatch.setattr(loader, "_process_slice", lambda *_, index=index: (index, 2))
        slices += _take(batches(streams, batch_size=6, start=0, sharding=sharding), 1)
    assert len(slices[0]["label"]) == 3
    for name, value in single.items():
        joined = np.concatenate([slices[0][name], slices[1][name]])
        np.testing.assert_array_equal(joined, value)


SHAPES = ((32, 16), (16, 32), (24, 24))


def test_each_radiograph_goes_to_the_shape_in_which_it_appears_largest(data):
    streams = random_letterboxes(Pool([data]), shapes=SHAPES, seed=0)
    # 64 x 40 is reduced to 26 x 16 in the tall shape and to 24 x 15 in the square;
    # 10 x 12 and 16 x 16 fit into all, so the first is taken.
    expected = {(32, 16): {0, 2, 3, 4}, (16, 32): {1}, (24, 24): {5}}
    for (shape, members), (samples, weight) in zip(expected.items(), streams, strict=True):
        boxes = [samples[n] for n in range(2 * len(members))]
        assert all(box["pixels"].shape == shape for box in boxes)
        assert sum(int(box["label"]) for box in boxes) == 2 * (1 in members)
        assert weight == pytest.approx(len(members) / 6)


def test_batches_of_several_shapes(data, sharding):
    streams = random_letterboxes(Pool([data]), shapes=SHAPES, seed=0)
    taken = _take(batches(streams, batch_size=2, start=0, sharding=sharding), 60)
    shapes = [batch["pixels"].shape[1:] for batch in taken]
    for shape, share in zip(SHAPES, (4 / 6, 1 / 6, 1 / 6), strict=True):
        assert shapes.count(shape) == pytest.approx(60 * share, abs=1)
    late = _take(batches(streams, batch_size=2, start=37, sharding=sharding), 3)
    for first, second in zip(taken[37:40], late, strict=True):
        _assert_equal(first, second)


def test_batches_are_transferred_explicitly(data, sharding):
    streams = random_patches(Pool([data]), level_weights=(1.0,), seed=3)
    with jax.transfer_guard("disallow"):
        batch = next(batches(streams, batch_size=4, start=0, sharding=sharding))
        assert all(isinstance(value, jax.Array) for value in batch.values())


def test_pools_join_datasets(data, dataset):
    pool = Pool([data, dataset])
    assert len(pool.radiographs) == len(SIZES) + len(dataset.split("train"))
    assert pool.radiographs[0] == (data, 0)
    assert pool.radiographs[-1][0] is dataset


def test_the_digest_notices_a_pixel_of_any_radiograph_and_the_weights(tmp_path):
    def digest(name, *, changed=None, label_shares=()):
        with DatasetWriter(tmp_path / name, patch=PATCH, provenance={}) as writer:
            for n in range(4):
                pixels = np.full((9, 9), n, np.uint16)
                pixels[4, 4] += n == changed
                radiograph = Radiograph(pixels, f"r{n}", LABELS[n % 2], f"p{n}", "h")
                writer.add(encode(radiograph, PATCH), "train" if n < 3 else "test")
        return Pool([RadiographDataset(tmp_path / name)], label_shares=label_shares).digest()

    first = digest("first")
    assert digest("again") == first
    assert digest("second radiograph", changed=1) != first
    assert digest("test split", changed=3) == first
    assert digest("weights", label_shares=(0.5, 0.5)) != first


def test_a_missing_class_is_reported(data, monkeypatch):
    only = [e for e in data.entries if e.label == "NFF"]
    monkeypatch.setattr(data, "entries", only)
    with pytest.raises(UserError, match="no radiograph with label AFF"):
        Pool([data], label_shares=(0.5, 0.5))
    assert len(Pool([data]).radiographs) == 5
    assert len(Pool([data], label_shares=(1.0, 0.0)).radiographs) == 5
    with pytest.raises(UserError, match="validation split"):
        Pool([data], split="validation")
    for shares in ((0.0, 0.0), (1.0,), (-0.5, 1.5)):
        with pytest.raises(UserError, match="label_shares is"):
            Pool([data], label_shares=shares)


def test_a_pool_takes_some_radiographs_of_each_label(data):
    small, large = (Pool([data, data], per_label=(n, 0), seed=3).radiographs for n in (2, 4))
    for chosen, counts in ((small, (2, 1)), (large, (4, 1))):
        own = [n for _, n in chosen[: sum(counts)]]
        labels = [data.entries[n].label for n in own]
        assert (labels.count("NFF"), labels.count("AFF")) == counts and len(set(own)) == len(own)
        assert [n for _, n in chosen[sum(counts) :]] == list(range(6))
    assert {n for _, n in small[:3]} < {n for _, n in large[:5]}
    others = [Pool([data], per_label=(2,), seed=seed) for seed in range(9)]
    assert len({pool.digest() for pool in others}) > 1
