"""Whether simulated fractures can be told apart, and by the fracture rather than the hospital."""

import dataclasses
import json
import runpy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from benchmarks.cohorts import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.measurements import Found
from femur_jax.classifier.task import (
    ClassifierTask,
    Predictions,
    predict,
    standardised,
)
from femur_jax.data.cohort import Pseudonyms
from femur_jax.data.letterbox import best_shape, letterbox
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.statistics import patient_scores, roc_auc
from femur_jax.models.functional import Params
from femur_jax.training import loop

_ROOT = Path(__file__).parents[1]
_PATIENTS, _IMAGES, _HOSPITALS = 1200, 4300, 72
SHAPES = ((224, 112), (184, 152))
STEPS, _BATCH = 4000, 24
_LOOKED_AT = 60  # radiographs for the occlusion maps
_WINDOW = 0.2  # of the shorter side


def classifier_auc() -> Found:
    """AUC on held-out patients of the hospitals that the classifier knows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset, truth = simulated(folder)
        config = classifier_config(dataset, shapes=SHAPES, steps=STEPS, by="hospital")
        task = ClassifierTask(config, [dataset])
        state = loop.train(task, config, folder / "classifier")
        known, elsewhere = (
            predict(task, state.ema, dataset, dataset.split(split, "hospital"))
            for split in ("validation", "test")
        )
        distances = _fracture_distances(task, state.ema, dataset, truth)
    at_home, away = (roc_auc(_by_patient(p)) for p in (known, elsewhere))
    radiographs = roc_auc(_by_radiograph(known))
    return Found(
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
            "random places from the fracture, mm, quartiles": ", ".join(
                f"{q:.0f}" for q in np.percentile(distances["random"], [25, 50, 75])
            ),
            "training": f"{STEPS} steps of {_BATCH} on {SHAPES}",
        },
    )


def simulated(folder: Path) -> tuple[RadiographDataset, dict[str, Any]]:
    """A cohort like the real one at reduced size, and its truth by radiograph's name.

    The split by hospital is narrowed: train holds patients that both splits train on, validation
    held-out patients of the hospitals trained on, test the patients of held-out hospitals.
    """
    dataset = simulated_dataset(
        folder,
        patch=256,
        fractions=(0.0, 0.2),  # training needs all it can get
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
    config = runpy.run_path(str(_ROOT / "configs" / "classifier.py"))["get_config"]("tiny")
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


def _by_patient(found: Predictions):
    return patient_scores(found.logit, found.positive, found.patients)


def _by_radiograph(found: Predictions):
    return patient_scores(found.logit, found.positive, [str(n) for n in range(len(found.logit))])


def _fracture_distances(
    task: ClassifierTask, params: Params, dataset: RadiographDataset, truth: dict[str, Any]
) -> dict[str, list[float]]:
    """How far the place whose occlusion changes the answer most is from the fracture, in mm.

    Beside it the same for a place at random within the radiograph.
    """
    rng, distances = np.random.default_rng(0), {"peak": [], "random": []}
    entries = dataset.entries
    for n in _shown(dataset, truth):
        shape = SHAPES[best_shape((entries[n].height, entries[n].width), SHAPES)]
        effect, places, scale = _occlusion(task, params, dataset, n, shape)
        column, row = truth[entries[n].name]["fracture_centre"]
        fracture = np.array([row - entries[n].crop.top, column - entries[n].crop.left])
        spacing = entries[n].spacing_mm
        for kind, place in (
            ("peak", places[int(np.argmax(effect))]),
            ("random", places[rng.integers(len(places))]),
        ):
            distances[kind].append(float(np.linalg.norm(place * scale - fracture) * spacing))
    return distances


def _shown(dataset: RadiographDataset, truth: dict[str, Any]) -> list[int]:
    """Radiographs of held-out patients whose fracture and spacing are known, AFF first."""
    held = [
        n
        for n in dataset.split("validation", "hospital")
        if dataset.entries[n].spacing_mm and truth[dataset.entries[n].name]["fracture_centre"]
    ]
    return sorted(held, key=lambda n: dataset.entries[n].label)[:_LOOKED_AT]


def _occlusion(
    task: ClassifierTask,
    params: Params,
    dataset: RadiographDataset,
    radiograph: int,
    shape: tuple[int, int],
) -> tuple[Float[np.ndarray, "places"], Float[np.ndarray, "places 2"], float]:
    """Change of the logit when a square is grey; the squares' centres, relative to the crop, in
    pixels of the letterbox; and how many native pixels one of these is."""
    box = letterbox(dataset, radiograph, shape)
    grey, mask = standardised(jnp.array(box["pixels"][None]), jnp.array(box["box"][None]))
    top, left, height, width = (int(v) for v in box["box"])
    side = max(2, round(_WINDOW * min(height, width)))
    places = [
        (y, x)
        for y in range(top, top + height - side + 1, side // 2)
        for x in range(left, left + width - side + 1, side // 2)
    ]
    plain = np.asarray(jnp.concatenate([grey, mask], -1))
    images = np.repeat(plain, len(places), 0)
    for image, (y, x) in zip(images, places, strict=True):
        image[y : y + side, x : x + side, 0] = 0.0  # the mean grey value
    run = jax.jit(task.model.apply)
    before = np.asarray(run(params, plain)[0])[0]
    after = np.concatenate(
        [np.asarray(run(params, part)[0]) for part in _parts(images, task.config.train.batch_size)]
    )[: len(places)]
    centres = np.array(places, float) + 0.5 * side - np.array([top, left])
    return abs(after - before), centres, dataset.entries[radiograph].height / height


def _parts(images: np.ndarray, size: int) -> Sequence[np.ndarray]:
    """Batches of one size, the last filled up."""
    fill = -len(images) % size
    filled = np.concatenate([images, np.repeat(images[:1], fill, 0)])
    return np.split(filled, len(filled) // size)
