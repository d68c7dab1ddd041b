"""The evaluation of a generator on textures: distances with their floor, crops that are copied."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation import memorization
from femur_jax.evaluation.features import pixels
from femur_jax.evaluation.generators import (
    Evaluation,
    View,
    evaluate_generator,
    evaluation_table,
    open_synthetic,
)
from femur_jax.evaluation.memorization import CROPS, WHOLE, CopySearches, find_copies
from femur_jax.evaluation.radiograph_set import BOTH, RadiographSet, of_split

TRAINED, HELD_OUT, SYNTHETIC = 40, 40, 10


def texture(rng: np.random.Generator, shape: tuple[int, int] = (126, 90)) -> np.ndarray:
    return gaussian_filter(rng.normal(size=shape), 2)


def write(folder, images, labels, splits) -> RadiographDataset:
    with DatasetWriter(folder, patch=32, provenance={"kind": folder.name}) as writer:
        for n, (image, label, split) in enumerate(zip(images, labels, splits, strict=True)):
            grey = np.clip(32768 + 40000 * image, 0, 65535).astype(np.uint16)
            radiograph = Radiograph(grey, f"r{n}", label, f"patient {n}", "hospital", 0.5)
            writer.add(encode(radiograph, 32), split)
    return RadiographDataset(folder)


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> tuple[RadiographDataset, RadiographSet]:
    """Real radiographs, and synthetic ones with the middle of a training radiograph, shifted."""
    folder = tmp_path_factory.mktemp("copied")
    rng = np.random.default_rng(0)
    real = [texture(rng) for _ in range(TRAINED + HELD_OUT)]
    synthetic = [texture(rng) for _ in range(SYNTHETIC)]
    for n in range(SYNTHETIC):
        synthetic[n][42:84, 24:66] = real[n][40:82, 22:64]
    splits = ["train"] * TRAINED + ["test"] * HELD_OUT
    written = write(folder / "synthetic", synthetic, ["AFF"] * SYNTHETIC, ["train"] * SYNTHETIC)
    return (
        write(folder / "real", real, ["AFF"] * len(real), splits),
        of_split([written], "train"),
    )


def test_crops_find_what_whole_radiographs_hide(copied):
    copies = find_copies(*copied, pixels(16))
    assert copies.audits[WHOLE].copies.mean() < 0.5
    assert copies.audits[CROPS].copies.all()
    assert copies.audits[CROPS].index.tolist() == list(range(SYNTHETIC))
    assert copies.power.found["unchanged"] == copies.power.found["mirrored"] == 1


def test_sets_of_one_scope_share_what_real_radiographs_decide(copied, monkeypatch):
    real, synthetic = copied
    prepared = []
    planted = memorization.planted_copies
    monkeypatch.setattr(
        memorization, "planted_copies", lambda train: prepared.append(train) or planted(train)
    )
    searches = CopySearches(real, pixels(16))
    first, again, few = (searches.copies(s) for s in (synthetic, synthetic, synthetic.thinned(5)))
    assert len(prepared) == 1
    assert first.verdict == again.verdict
    assert few.verdict == find_copies(real, synthetic.thinned(5), pixels(16)).verdict


def test_an_evaluation_counts_copied_crops_and_names_their_originals(copied):
    real, synthetic = copied
    evaluation = evaluate_generator(real, synthetic.thinned(5), View.of(pixels(16)))
    (row,) = evaluation.copies
    assert row.is_accused
    assert row.copies == row.n == 5
    assert all(pair.is_flagged for pair in row.pairs)
    assert all(pair.synthetic == pair.nearest for pair in row.pairs)
    assert evaluation.distances == [] and evaluation.patches is None
    assert "too small for distances" in evaluation_table(evaluation)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[RadiographDataset, RadiographSet, RadiographSet]:
    """Real radiographs, as many AFF as NFF; new ones like them, and dark ones, most of them NFF.

    NFF are brighter, so a comparison at other class shares would see the shares.
    """
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(1)

    def images(labels, dark=0.0):
        return [texture(rng, (48, 40)) + 0.4 * (label == "NFF") - dark for label in labels]

    labels = list(LABELS) * 50
    splits = ["train"] * 20 + ["validation"] * 40 + ["test"] * 40
    real = write(folder / "real", images(labels), labels, splits)
    mostly = ["NFF"] * 36 + ["AFF"] * 12
    good, dark = (
        write(folder / name, images(mostly, amount), mostly, ["train"] * len(mostly))
        for name, amount in (("good", 0.0), ("dark", 0.6))
    )
    return real, of_split([good], "train"), of_split([dark], "train")


def brightness(dataset: RadiographDataset, positions) -> np.ndarray:
    return np.array([dataset.read(n).mean() for n in positions]) / 65535


@pytest.fixture(scope="module")
def near(sets) -> Evaluation:
    """The evaluation of good radiographs, by a judge who calls dark ones AFF."""
    real, good, _ = sets
    extractor = pixels(8)
    features = View.of(extractor).features
    view = View("grey values", features, extractor, lambda *where: -brightness(*where))
    return evaluate_generator(real, good, view)


def test_sets_are_compared_at_equal_sizes_and_class_shares(near):
    assert [row.label for row in near.distances] == [BOTH, *LABELS]
    for row, floor in zip(near.distances, near.floor, strict=True):
        assert (row.n_real, row.n_compared) == (floor.n_real, floor.n_compared)
        assert abs(row.kid - floor.kid) < 4 * np.hypot(row.kid_error, floor.kid_error)
        assert row.kid_p > 0.05 and floor.kid_p > 0.05
    # The synthetic set has 12 AFF, so both classes together have 12 of each.
    assert [row.n_compared for row in near.distances] == [24, 20, 12]
    assert [row.n_real for row in near.distances] == [40, 20, 20]
    assert near.patches is not None and near.patch_floor is not None
    assert near.patches.n_compared == near.patch_floor.n_compared == 4 * 24


def test_the_judge_sees_every_synthetic_radiograph(near):
    assert near.judged is not None and near.judged.value > 0.99
    assert (near.features, near.patch_features) == ("grey values", "pixels 8 x 8")


def test_worse_radiographs_lie_beyond_the_floor(sets, near):
    real, _, dark = sets
    far = evaluate_generator(real, dark, View.of(pixels(8)))
    assert near.floor == far.floor and far.judged is None
    for row, floor in zip(far.distances, far.floor, strict=True):
        assert row.kid - floor.kid > 2 * np.hypot(row.kid_error, floor.kid_error)
        assert row.kid_p < 0.005
        assert row.descriptors["grey values"] > 2 * floor.descriptors["grey values"]
    text = evaluation_table(far)
    assert "real: the floor (24)" in text and "NFF: " in text and "AFF: " in text
    assert Evaluation.from_json(json.loads(json.dumps(far.to_json()))) == far
    assert [row.label for row in far.of("AFF").distances] == ["AFF"]


def test_an_audit_without_held_out_radiographs_is_refused(sets):
    real, good, _ = sets
    with pytest.raises(UserError, match=r"classes \(none\), and there are 0 and 0"):
        find_copies(real, good.of("NFF").of("AFF"), pixels(8))


def test_members_of_several_datasets_keep_their_order(sets):
    _, good, dark = sets
    mixed = RadiographSet([m for pair in zip(good.members, dark.members) for m in pair][:9])  # noqa: B905
    read = mixed.map(lambda dataset, positions: np.stack([dataset.read(n) for n in positions]))
    for image, (dataset, n) in zip(read, mixed.members, strict=True):
        np.testing.assert_array_equal(image, dataset.read(n))


def test_a_synthetic_set_without_provenance_is_refused(dataset):
    with pytest.raises(UserError, match="does not name the model"):
        open_synthetic(dataset.folder)
