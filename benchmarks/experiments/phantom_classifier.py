"""Whether a classifier separates simulated fractures, by the fracture and not the hospital."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from benchmarks.datasets import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from configs.classifier import get_config
from femur_jax.classifier.task import (
    ClassifierTask,
    Predictions,
    predict,
    standardised,
)
from femur_jax.data.cohort import Pseudonyms
from femur_jax.data.letterbox import best_shape, letterbox
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.statistics import PatientScores, patient_scores, roc_auc
from femur_jax.models.functional import Params
from femur_jax.training import loop

_PATIENTS, _IMAGES, _HOSPITALS = 1200, 4300, 72
_SHAPES = ((224, 112), (184, 152))
_STEPS, _BATCH = 4000, 24
_OCCLUDED = 60  # radiographs
_WINDOW = 0.2  # of the shorter side


@measurement("AUC", Goal(">=", 0.8), timed=False)
def phantom_classifier_auc() -> Result:
    """How well a small classifier separates simulated patients' fractures; takes half an hour.

    The whole cohort has 1200 patients, 4300 radiographs of 256 to 512 pixels, 72 hospitals and 20%
    AFF. A residual network is trained on patients of most hospitals. The value is the AUC over
    held-out patients of the same hospitals, the range its 95% interval; it should be below 0.97,
    and at most 0.05 lower for patients of hospitals that were held out. The window whose occlusion
    changes the answer most should lie near the fracture.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset, truth = simulated(folder)
        config = classifier_config(dataset, shapes=_SHAPES, steps=_STEPS, by="hospital")
        task = ClassifierTask(config, [dataset])
        state = loop.train(task, config, folder / "classifier")
        known, elsewhere = (
            predict(task, state.ema, dataset, dataset.split(split, "hospital"))
            for split in ("validation", "test")
        )
        distances = _fracture_distances(task, state.ema, dataset, truth)
    at_home, away = (roc_auc(_by_patient(p)) for p in (known, elsewhere))
    radiographs = roc_auc(_by_radiograph(known))
    return Result(
        value=at_home.value,
        spread=(at_home.low, at_home.high),
        device=cpu(),
        details={
            "AUC per radiograph": radiographs.value,
            "AUC of patients of held-out hospitals": away.value,
            "its interval": f"{away.low:.3f} to {away.high:.3f}",
            "loss of AUC on held-out hospitals": at_home.value - away.value,
            "patients": f"{len(set(known.patients))} of known, "
            f"{len(set(elsewhere.patients))} of held-out hospitals",
            "occlusion peaks from the fracture, mm, quartiles": ", ".join(
                f"{q:.0f}" for q in np.percentile(distances["peak"], [25, 50, 75])
            ),
            "random windows from the fracture, mm, quartiles": ", ".join(
                f"{q:.0f}" for q in np.percentile(distances["random"], [25, 50, 75])
            ),
            "training": f"{_STEPS} steps of {_BATCH} on {_SHAPES}",
        },
    )


def simulated(folder: Path) -> tuple[RadiographDataset, dict[str, Any]]:
    """A cohort like the real one at reduced size, and its truth by radiograph's name.

    The split by hospital is narrowed: `train` holds patients whom both splits train on,
    `validation` held-out patients of the training hospitals, `test` patients of held-out hospitals.
    """
    dataset = simulated_dataset(
        folder,
        patch=256,
        fractions=(0.0, 0.2),  # most patients train
        patients=_PATIENTS,
        images=_IMAGES,
        hospitals=_HOSPITALS,
        aff_fraction=0.2,
        long_side=(256, 512),
        seed=5,
    )
    for n, entry in enumerate(dataset.entries):
        known = entry.hospital_split == "train"
        away = entry.hospital_split in ("validation", "test")
        split = {"train": "train", "test": "validation"}.get(entry.split, "") if known else ""
        dataset.entries[n] = dataclasses.replace(entry, hospital_split="test" if away else split)
    name = Pseudonyms(folder / "key")
    truth = {}
    with (folder / "cohort.truth.jsonl").open() as file:
        for line in file:
            record = json.loads(line)
            truth[name("file", record["path"])] = record
    return dataset, truth


def classifier_config(
    dataset: RadiographDataset, *, shapes: tuple[tuple[int, int], ...], steps: int, by: str
) -> ConfigDict:
    """The small classifier, trained for longer than in the demo."""
    config = get_config("tiny")
    config.dataset = str(dataset.folder)
    config.data.shapes = shapes
    config.data.draw.by = by
    config.train.update(
        steps=steps,
        batch_size=_BATCH,
        learning_rate=1e-3,
        warmup_steps=100,
        ema_decay=0.998,
        augment={"zoom": 0.08, "shift": 0.04},
        checkpoint_every=500,
        log_every=50,
    )
    return config


def _by_patient(predictions: Predictions) -> PatientScores:
    return patient_scores(predictions.logit, predictions.positive, predictions.patients)


def _by_radiograph(predictions: Predictions) -> PatientScores:
    names = [str(n) for n in range(len(predictions.logit))]
    return patient_scores(predictions.logit, predictions.positive, names)


def _fracture_distances(
    task: ClassifierTask, params: Params, dataset: RadiographDataset, truth: dict[str, Any]
) -> dict[str, list[float]]:
    """Distances in mm from the fracture to a window of each radiograph.

    The window is the one whose occlusion changes the answer most ("peak"), or a random one.
    """
    rng, distances = np.random.default_rng(0), {"peak": [], "random": []}
    entries = dataset.entries
    for n in _with_fracture(dataset, truth):
        shape = _SHAPES[best_shape((entries[n].height, entries[n].width), _SHAPES)]
        effect, centres, scale = _occlusion(task, params, dataset, n, shape)
        column, row = truth[entries[n].name]["fracture_centre"]
        fracture = np.array([row - entries[n].crop.top, column - entries[n].crop.left])
        spacing = entries[n].spacing_mm
        for kind, centre in (
            ("peak", centres[int(np.argmax(effect))]),
            ("random", centres[rng.integers(len(centres))]),
        ):
            distances[kind].append(float(np.linalg.norm(centre * scale - fracture) * spacing))
    return distances


def _with_fracture(dataset: RadiographDataset, truth: dict[str, Any]) -> list[int]:
    """Radiographs of held-out patients whose fracture and spacing are known, AFF first."""
    held = [
        n
        for n in dataset.split("validation", "hospital")
        if dataset.entries[n].spacing_mm and truth[dataset.entries[n].name]["fracture_centre"]
    ]
    return sorted(held, key=lambda n: dataset.entries[n].label)[:_OCCLUDED]


def _occlusion(
    task: ClassifierTask,
    params: Params,
    dataset: RadiographDataset,
    radiograph: int,
    shape: tuple[int, int],
) -> tuple[Float[np.ndarray, "windows"], Float[np.ndarray, "windows 2"], float]:
    """Effects of greying out square windows of a radiograph.

    Returns:
        Changes of the logit; the windows' centres relative to the crop, in pixels of the
        letterbox; and native pixels per pixel of the letterbox.
    """
    box = letterbox(dataset, radiograph, shape, enlarge=True)
    grey, mask = standardised(jnp.array(box["pixels"][None]), jnp.array(box["box"][None]))
    top, left, height, width = (int(v) for v in box["box"])
    side = max(2, round(_WINDOW * min(height, width)))
    windows = [
        (y, x)
        for y in range(top, top + height - side + 1, side // 2)
        for x in range(left, left + width - side + 1, side // 2)
    ]
    plain = np.asarray(jnp.concatenate([grey, mask], -1))
    images = np.repeat(plain, len(windows), 0)
    for image, (y, x) in zip(images, windows, strict=True):
        image[y : y + side, x : x + side, 0] = 0.0  # the mean grey value
    run = jax.jit(task.model.apply)
    before = np.asarray(run(params, plain)[0])[0]
    batches = _batches(images, task.config.train.batch_size)
    after = np.concatenate([np.asarray(run(params, batch)[0]) for batch in batches])
    after = after[: len(windows)]
    centres = np.array(windows, float) + 0.5 * side - np.array([top, left])
    return abs(after - before), centres, dataset.entries[radiograph].height / height


def _batches(images: np.ndarray, size: int) -> Sequence[np.ndarray]:
    """Batches of one size, the last one padded."""
    fill = -len(images) % size
    filled = np.concatenate([images, np.repeat(images[:1], fill, 0)])
    return np.split(filled, len(filled) // size)
