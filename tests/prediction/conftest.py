"""A classifier of spots, which a person tells apart and whose places are known."""

import numpy as np
import pytest

from femur_jax.classifier.task import ClassifierTask
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.training import loop

RADIUS = 4


def spotted(rng, label):
    """A limb with a spot, brighter for AFF and darker for NFF, and the spot's row and column."""
    height, width = (int(side) for side in rng.integers(44, 60, size=2))
    place = rng.uniform(2 * RADIUS, (height - 2 * RADIUS, width - 2 * RADIUS))
    rows, columns = np.indices((height, width)) + 0.5
    limb = 20000 * np.exp(-(((columns / width - 0.5) / 0.3) ** 2))
    spot = np.hypot(rows - place[0], columns - place[1]) < RADIUS
    pixels = 15000 + limb + rng.normal(0, 800, (height, width))
    pixels += spot * (20000 if label == "AFF" else -14000)
    return np.clip(pixels, 0, 65535).astype(np.uint16), place


@pytest.fixture(scope="session")
def spots(tmp_path_factory):
    """The dataset, and the spots' places by the names of the radiographs."""
    rng, places = np.random.default_rng(0), {}
    folder = tmp_path_factory.mktemp("spots") / "dataset"
    with DatasetWriter(folder, patch=32, provenance={"kind": "real"}) as writer:
        for split, count in (("train", 80), ("validation", 16), ("test", 20)):
            for n in range(count):
                label, name = ("NFF", "AFF")[n % 2], f"{split}-{n}"
                pixels, places[name] = spotted(rng, label)
                patient = f"{split}-{n // 4}-{label}"
                radiograph = Radiograph(pixels, name, label, patient, f"hospital-{n % 3}")
                writer.add(encode(radiograph, 32), split)
    return RadiographDataset(folder), places


@pytest.fixture(scope="session")
def run(spots, classifier_config, tmp_path_factory):
    """The run directory of the trained classifier."""
    config = classifier_config.copy_and_resolve_references()
    config.dataset = str(spots[0].folder)
    config.model.sharpness = 4.0
    config.train.update(steps=80, checkpoint_every=80, learning_rate=1e-2)
    folder = tmp_path_factory.mktemp("classifier") / "run"
    loop.train(ClassifierTask(config, [spots[0]]), config, folder)
    return folder
