"""From real chest radiographs to a sampled image."""

import csv

import numpy as np
import pytest

from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request
from femur_jax.ingest.pipeline import ingest
from femur_jax.stages.tasks import make_task
from femur_jax.stages.train import train
from femur_jax.training import loop
from femur_jax.training.monitor import read_scalars


@pytest.fixture(scope="module")
def chest(real_radiographs, tmp_path_factory):
    """All files of four patients, with invented labels."""
    folder = tmp_path_factory.mktemp("chest")
    with (real_radiographs / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("chest/")]
    patients = sorted({row["patient"] for row in rows if row["patient"]})[:4]
    with (folder / "labels.csv").open("w") as file:
        file.write("path,patient_id,hospital,label\n")
        for row in rows:
            if row["patient"] in patients:
                label = ("AFF", "NFF")[patients.index(row["patient"]) % 2]
                file.write(f"{row['file']},{row['patient']},MHH,{label}\n")
    ingest(
        real_radiographs,
        folder / "labels.csv",
        folder / "dataset",
        patch=64,
        key_file=folder / "key",
        fractions=(0.0, 0.0),
    )
    return RadiographDataset(folder / "dataset")


def test_a_few_steps_of_diffusion_and_a_sample(chest, diffusion_config, tmp_path):
    assert chest.level_sizes(0)[-1] == (2000, 2000) and len(chest.level_sizes(0)) == 6
    config = diffusion_config.copy_and_resolve_references()
    config.dataset = str(chest.folder)
    config.model.update(attention=(False,))
    config.train.update(
        steps=20, batch_size=8, log_every=10, checkpoint_every=20, learning_rate=3e-3
    )
    train(config, tmp_path / "run")
    losses = [line["loss"] for line in read_scalars(tmp_path / "run")]
    assert losses[-1] < losses[0]
    task = make_task(config)
    state = loop.restore(task, config, tmp_path / "run")
    request = Request(90, 50, 0.0, "AFF")
    [(_, pixels)] = task.generate(state.ema["0.05"], {0: request}, sample=config.sample)
    assert pixels.shape == (90, 50)
    assert np.std(pixels / 65535) > 0.02
