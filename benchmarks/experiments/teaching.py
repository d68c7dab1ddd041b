"""What a classifier learns from the radiographs of small generators: TSTR on simulated patients.

A classifier is trained on 300 radiographs and tested on real (simulated) held-out patients. The
recipes were chosen on patients of another seed than these. Datasets, trained models and classifiers
stay in runs/teaching and are used again.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.datasets import simulated_dataset
from benchmarks.machine import ROOT, cpu
from benchmarks.records import Goal, Result, measurement
from configs import classifier, patch_diffusion
from femur_jax.classifier.protocol import origin
from femur_jax.data.pyramid import shrink
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.stages.evaluate import EVALUATION, evaluate
from femur_jax.stages.sample import SYNTHETIC, sample
from femur_jax.stages.train import train

_FOLDER = ROOT / "runs" / "teaching"
_PER_LABEL = 150
_SEEDS = (0, 1, 2)
_SMALL = 48  # the long side of shrunken radiographs


@measurement("AUC", Goal(">=", 0.93), timed=False)
def tstr_10min() -> Result:
    """TSTR of 300 radiographs of a denoiser that was trained for about ten minutes of one core.

    The tiny denoiser takes 3000 steps of 16 patches on the training radiographs of the cohort.
    The value is the mean over three trainings of the denoiser and three of the classifier each,
    the range goes from the smallest to the largest. The details give the same for as many real
    radiographs.
    """
    dataset = cohort()
    config = patch_diffusion.get_config("tiny")
    config.dataset = str(dataset.folder)
    config.train.update(
        steps=3000, warmup_steps=100, checkpoint_every=500, log_every=50, images_every=10**6
    )
    config.sample.per_label = _PER_LABEL
    synthetic = []
    for seed in _SEEDS:
        config.seed = config.sample.seed = seed
        folder = _FOLDER / f"diffusion-{seed}"
        if not (folder / SYNTHETIC).is_dir():
            train(config, folder)
            sample(config, folder)
        synthetic.append(folder / SYNTHETIC)
    areas = {folder.parent.name: _areas(dataset, folder) for folder in synthetic}
    return _result(areas, _matched(dataset, len(_SEEDS)))


@measurement("AUC", Goal(">=", -0.03), timed=False)
def scale_control_auc() -> Result:
    """What real radiographs lose as training data when they are shrunk to 48 pixels.

    Classifiers show every radiograph at one scale, so generators of small radiographs are not
    judged by their size. The value is the mean AUC of three classifiers of 300 shrunken
    radiographs less that of the same radiographs as they are (96 to 128 pixels), the range that of
    the three differences.
    """
    dataset = cohort()
    areas = {}
    for name, longest in (("as they are", 128), ("shrunken", _SMALL)):
        folder = _FOLDER / f"real-{longest}-0"
        areas[name] = _areas(dataset, _subset(dataset, folder, seed=0, longest=longest))
    differences = np.subtract(areas["shrunken"], areas["as they are"])
    return Result(
        value=float(differences.mean()),
        spread=(float(differences.min()), float(differences.max())),
        device=cpu(),
        details=_shown(areas),
    )


def cohort() -> RadiographDataset:
    """The simulated patients: 900 with 2400 radiographs; 70% of them train."""
    return simulated_dataset(
        _FOLDER / "data",
        patch=32,
        fractions=(0.05, 0.25),
        patients=900,
        images=2400,
        hospitals=24,
        aff_fraction=0.4,
        long_side=(96, 128),
        coarsest_mm=0.7,
        seed=5,
    )


def _areas(dataset: RadiographDataset, training: Path) -> list[float]:
    """Areas under the curve on held-out patients of classifiers trained on one dataset."""
    return [_area(dataset, training, seed) for seed in _SEEDS]


def _area(dataset: RadiographDataset, training: Path, seed: int) -> float:
    config = classifier.get_config("tiny")
    config.update(dataset=str(dataset.folder), train_datasets=(str(training),), seed=seed)
    name = "-".join((*training.relative_to(_FOLDER).parts, str(seed)))
    folder = _FOLDER / "classifiers" / name
    if not (folder / EVALUATION).is_file():
        train(config, folder)
        evaluate(config, folder)
    return json.loads((folder / EVALUATION).read_text())["auc"]["value"]


def _matched(dataset: RadiographDataset, count: int) -> list[list[float]]:
    """Areas of classifiers trained on as many real radiographs, for some random choices."""
    folders = (_subset(dataset, _FOLDER / f"real-128-{n}", seed=n) for n in range(count))
    return [_areas(dataset, folder) for folder in folders]


def _subset(dataset: RadiographDataset, folder: Path, *, seed: int, longest: int = 128) -> Path:
    """A dataset of some real training radiographs of each class, shrunk to fit a square."""
    if folder.is_dir():
        return folder
    rng = np.random.default_rng(seed)
    provenance = {"kind": "synthetic", "model": "none", **origin(dataset, "patient")}
    with DatasetWriter(folder, patch=dataset.patch, provenance=provenance) as writer:
        for label in LABELS:
            known = [n for n in dataset.split("train") if dataset.entries[n].label == label]
            for n in rng.choice(known, _PER_LABEL, replace=False):
                pixels = shrink(dataset.read(int(n)), (longest, longest))
                entry = dataset.entries[n]
                radiograph = Radiograph(pixels, entry.name, label, entry.patient, entry.hospital)
                writer.add(encode(radiograph, dataset.patch), "train")
    return folder


def _result(areas: Mapping[str, Sequence[float]], matched: Iterable[Sequence[float]]) -> Result:
    every = list(itertools.chain(*areas.values()))
    real = list(itertools.chain(*matched))
    return Result(
        value=float(np.mean(every)),
        spread=(min(every), max(every)),
        device=cpu(),
        details=_shown(areas)
        | {
            "standard deviation of trainings": float(np.std(_means(areas.values()), ddof=1)),
            "300 real radiographs": float(np.mean(real)),
            "their range": f"{min(real):.3f} to {max(real):.3f}",
        },
    )


def _means(areas: Iterable[Sequence[float]]) -> list[float]:
    return [float(np.mean(row)) for row in areas]


def _shown(areas: Mapping[str, Sequence[float]]) -> dict[str, str]:
    return {name: ", ".join(f"{area:.3f}" for area in row) for name, row in areas.items()}
