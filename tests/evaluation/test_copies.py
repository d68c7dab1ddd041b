"""The audit of pictures, on textures whose middle is copied."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.evaluation.copies import PARTS, WHOLE, audit_pictures
from femur_jax.evaluation.measurement import View, measure
from femur_jax.evaluation.radiograph_set import RadiographSet, of_split

TRAINED, HELD_OUT, MADE = 40, 40, 10


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[RadiographSet, ...]:
    """Made ones with the middle of a training radiograph, slightly moved; training; held-out."""
    folder = tmp_path_factory.mktemp("copies")
    rng = np.random.default_rng(0)
    real = [gaussian_filter(rng.normal(size=(126, 90)), 2) for _ in range(TRAINED + HELD_OUT)]
    made = [gaussian_filter(rng.normal(size=(126, 90)), 2) for _ in range(MADE)]
    for n in range(MADE):
        made[n][42:84, 24:66] = real[n][40:82, 22:64]
    names = ["train"] * TRAINED + ["test"] * HELD_OUT
    for name, images, splits in (("real", real, names), ("made", made, ["train"] * MADE)):
        with DatasetWriter(folder / name, patch=32, provenance={"kind": name}) as writer:
            for n, (image, split) in enumerate(zip(images, splits, strict=True)):
                grey = np.clip(32768 + 40000 * image, 0, 65535).astype(np.uint16)
                radiograph = Radiograph(grey, f"r{n}", "AFF", f"patient {n}", "hospital", 0.5)
                writer.add(encode(radiograph, 32), split)
    real_data, made_data = (RadiographDataset(folder / name) for name in ("real", "made"))
    return (
        of_split([made_data], "train"),
        of_split([real_data], "train"),
        of_split([real_data], "test"),
    )


def test_parts_find_what_whole_radiographs_hide(sets: tuple[RadiographSet, ...]):
    audits, _ = audit_pictures(*sets)
    assert audits[WHOLE].copies.mean() < 0.5
    assert audits[PARTS].copies.all()
    assert audits[PARTS].index.tolist() == list(range(MADE))


def test_a_measurement_counts_copies_of_parts_and_shows_their_originals(
    sets: tuple[RadiographSet, ...],
):
    made, train, held_out = sets
    constant = View(
        logits=lambda dataset, positions: np.zeros(len(positions)),
        features=lambda dataset, positions: np.zeros((len(positions), 2), np.float32),
        name="nothing",
    )
    found = measure(held_out, made.thinned(5), constant, train=train, held_out=held_out)
    (row,) = found.copies
    assert row.is_accused
    assert row.copies == row.n == 5
    assert all(pair.is_flagged for pair in row.pairs)
    originals = {made.members[2 * n][1]: train.members[2 * n][1] for n in range(5)}
    assert all(originals[pair.synthetic] == pair.nearest for pair in row.pairs)
