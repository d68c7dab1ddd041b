"""A model that is made to memorise its training set, so that the audit has something to find."""

import dataclasses
import json
import runpy
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.cohorts import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.measurements import Found
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.onset import Point
from femur_jax.stages.audit import audit
from femur_jax.stages.train import train

_ROOT = Path(__file__).parents[1]


def overfit_flagged() -> Found:
    """See `measurements.overfit_flagged`."""
    with tempfile.TemporaryDirectory() as folder:
        return trained_until_it_memorises(Path(folder))


def trained_until_it_memorises(folder: Path) -> Found:
    """The same, leaving its data and its run in a folder."""
    dataset = _few_patients(folder)
    config = _config(dataset.folder)
    train(config, folder / "run")
    audit(config, folder / "run")
    found = json.loads((folder / "run" / "audit.json").read_text())
    points = [Point(**point) for point in found["points"]]
    return Found(
        value=points[-1].flagged_share,
        device=cpu(),
        details={
            "training radiographs": len(dataset.split("train")),
            "held-out radiographs": len(dataset.split("validation") + dataset.split("test")),
            "radiographs of each step": 2 * config.evaluate.per_label,
            "step before onset": found["before_onset"],
            "by step": {point.step: dataclasses.asdict(point) for point in points},
        },
    )


def _few_patients(folder: Path) -> RadiographDataset:
    """A dataset of a handful of patients to train on, and many held out."""
    return simulated_dataset(
        folder,
        patch=32,
        fractions=(0.4, 0.48),
        patients=80,
        images=80,
        hospitals=4,
        aff_fraction=0.5,
        long_side=(64, 96),
        coarsest_mm=1.2,
        seed=3,
    )


def _config(dataset: Path) -> ConfigDict:
    """Letterboxes of 32 pixels, without what keeps a model from memorising."""
    config = runpy.run_path(str(_ROOT / "configs" / "patch_diffusion.py"))["get_config"]("tiny")
    config.dataset = str(dataset)
    config.data.update(strategy="letterbox", mirror=False)
    config.train.update(
        steps=1200,
        batch_size=8,
        learning_rate=2e-3,
        snapshot_every=200,
        checkpoint_every=400,
        images_every=1200,
        log_every=50,
    )
    config.sample.update(steps=(16,), tile_batch=16)
    config.evaluate.per_label = 12
    return config
