"""The stages of a single model's run: train, sample, evaluate.

A stage reads what the one before it left in the workdir:

    WORKDIR/config.json, checkpoints/, scalars.jsonl, events.out.tfevents...   train
    WORKDIR/synthetic/                                                         sample
    WORKDIR/evaluation.json                                                    evaluate
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from femur_jax import workdir as workdirs
from femur_jax.config import Config
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.requests import draw_requests
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.evaluation.classification import (
    ClassifierTask,
    Predictions,
    predict,
    radiographs_to_test,
)
from femur_jax.evaluation.correlation import most_correlated
from femur_jax.evaluation.distances import frechet_distance, kernel_distance
from femur_jax.evaluation.features import pixel_features, thumbnails
from femur_jax.evaluation.memorization import audit, verdict
from femur_jax.evaluation.summary import summarise
from femur_jax.files import write_atomically
from femur_jax.gan.task import GanTask
from femur_jax.training import loop

SYNTHETIC = "synthetic"
EVALUATION = "evaluation.json"
_FEATURE_SIDE = 32


def make_task(config: Config) -> DiffusionTask | GanTask | ClassifierTask:
    """The model that `config.task` names, with its training data.

    Raises:
        UserError: No such model, or no dataset.
    """
    if config.task not in ("diffusion", "gan", "classifier"):
        raise UserError(f"config.task is {config.task!r}; write diffusion, gan or classifier.")
    if not config.dataset:
        raise UserError("No dataset is named; add --config.dataset=FOLDER.")
    if config.task == "classifier":
        folders = config.train_datasets or (config.dataset,)
        datasets = [RadiographDataset(folder) for folder in folders]
        if not config.pretrained:
            return ClassifierTask(config, datasets)
        first = loop.restore(ClassifierTask(config, datasets), config, Path(config.pretrained))
        return ClassifierTask(config, datasets, start=jax.device_get(first.ema))
    family = DiffusionTask if config.task == "diffusion" else GanTask
    return family(config, RadiographDataset(config.dataset))


def train(config: Config, workdir: Path) -> None:
    """Trains the model to its last step, from its newest checkpoint where there is one."""
    loop.train(make_task(config), config, workdir)


def sample(config: Config, workdir: Path) -> None:
    """Writes a dataset of synthetic radiographs into `workdir/synthetic`."""
    task = make_task(config)
    if isinstance(task, ClassifierTask):
        raise UserError("A classifier makes no radiographs; sample from diffusion or gan.")
    workdirs.claim(workdir, config, free=loop.FREE_FIELDS)
    requests = draw_requests(
        task.dataset, per_label=config.sample.per_label, seed=config.sample.seed
    )
    provenance = {
        "kind": "synthetic",
        "model": task.name,
        "config": workdirs.config_hash(config),
        "seed": config.sample.seed,
        "guidance": config.sample.get("guidance", 1.0),
    }
    state = loop.restore(task, config, workdir)
    provenance["checkpoint"] = int(state.step)
    patch = task.dataset.patch
    made = task.generate(state.ema, requests, seed=config.sample.seed, progress=True)
    with DatasetWriter(workdir / SYNTHETIC, patch=patch, provenance=provenance) as writer:
        for number, (request, pixels) in enumerate(zip(requests, made, strict=True)):
            radiograph = Radiograph(
                pixels=pixels,
                name=f"synthetic-{number:06d}",
                label=request.label,
                patient=f"synthetic-{number:06d}",
                hospital="synthetic",
                spacing_mm=request.spacing_mm * request.height / pixels.shape[0],
                spacing_source="calibrated" if request.spacing_mm else "unknown",
            )
            writer.add(encode(radiograph, patch), "train")


def evaluate(config: Config, workdir: Path) -> None:
    """Tests a classifier on real held-out patients, or compares synthetic radiographs with them.

    The result goes to `workdir/evaluation.json` and, in short, to the terminal.
    """
    task = make_task(config)
    workdirs.claim(workdir, config, free=loop.FREE_FIELDS)
    real = RadiographDataset(config.dataset)
    if isinstance(task, ClassifierTask):
        predictions = held_out_predictions(config, workdir)
        drawn = config.data.draw.label_shares or _label_counts(task.datasets)
        counts = _label_counts([real])
        result = summarise(
            predictions,
            trained_share=float(drawn[1] / sum(drawn)),
            true_share=float(counts[1] / sum(counts)),
        )
        print("AUC {value:.3f} [{low:.3f}, {high:.3f}]".format(**result["auc"]))
    else:
        synthetic = RadiographDataset(workdir / SYNTHETIC)
        samples = synthetic.split("train")
        held_out = pixel_features(real, real.split("test"), _FEATURE_SIDE)
        made = pixel_features(synthetic, samples, _FEATURE_SIDE)
        kid = kernel_distance(held_out, made)
        pictures = {split: thumbnails(real, real.split(split)) for split in ("train", "test")}
        found = audit(
            thumbnails(synthetic, samples), pictures["train"], pictures["test"], most_correlated
        )
        told = verdict({"correlation": found})
        result = {
            "features": f"pixels {_FEATURE_SIDE} x {_FEATURE_SIDE}",
            "fid": frechet_distance(held_out, made),
            "kid": dataclasses.asdict(kid),
            "copies": int(found.copies.sum()),
            "flagged_share": dataclasses.asdict(found.flagged_share),
            "authentic_share": float(np.mean(found.authentic)),
            "verdict": told.sentence,
        }
        print(
            f"pixel FID {result['fid']:.3f}, KID {kid.value:.4f} +- {kid.standard_error:.4f}\n"
            f"{told.sentence}"
        )
    write_atomically(workdir / EVALUATION, json.dumps(result))


def held_out_predictions(config: Config, workdir: Path) -> Predictions:
    """What the trained classifier in a workdir says of the radiographs that it is tested on."""
    task = make_task(config)
    assert isinstance(task, ClassifierTask)
    tested = RadiographDataset(config.test_dataset or config.dataset)
    chosen = radiographs_to_test(task.datasets, tested, config.data.draw.by)
    return predict(task, loop.restore(task, config, workdir).ema, tested, chosen)


def _label_counts(datasets: Sequence[RadiographDataset]) -> list[int]:
    """Radiographs of each label in the train splits."""
    labels = [d.entries[n].label for d in datasets for n in d.split("train")]
    return [labels.count(label) for label in LABELS]
