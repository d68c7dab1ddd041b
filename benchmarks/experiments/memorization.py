"""A model that memorises its training set on purpose, so that the audit has copies to find."""

import dataclasses
import json
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.datasets import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from configs.patch_diffusion import get_config
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.onset import Point
from femur_jax.stages.audit import audit
from femur_jax.stages.train import train


@measurement("", Goal(">=", 0.5), timed=False)
def overfit_flagged() -> Result:
    """Share of the radiographs of a memorising model that the audit flags; takes minutes.

    The tiny denoiser, letterboxed, is trained on the radiographs of ten simulated patients without
    mirroring. A few radiographs are generated with the averages of every 200 steps and audited;
    the details give the curve and the last step before the onset, where the audit must not accuse.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = _few_patients(folder)
        config = _config(dataset.folder)
        train(config, folder / "run")
        audit(config, folder / "run")
        results = json.loads((folder / "run" / "audit.json").read_text())
    points = [Point(**point) for point in results["points"]]
    return Result(
        value=points[-1].flagged_share,
        device=cpu(),
        details={
            "training radiographs": len(dataset.split("train")),
            "held-out radiographs": len(dataset.split("validation") + dataset.split("test")),
            "radiographs of each step": 2 * config.evaluate.per_label,
            "step before onset": results["before_onset"],
            "by step": {point.step: dataclasses.asdict(point) for point in points},
        },
    )


def _few_patients(folder: Path) -> RadiographDataset:
    """A dataset of a few training patients and many held-out ones."""
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
    """A training on letterboxes of 32 pixels, without what prevents memorising."""
    config = get_config("tiny")
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
