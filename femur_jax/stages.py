"""The stages of a single model's run: train, sample, evaluate.

A stage reads what the one before it left in the workdir:

    WORKDIR/config.json, checkpoints/, scalars.jsonl, events.out.tfevents...   train
    WORKDIR/synthetic/, MODEL_CARD.md                                          sample
    WORKDIR/evaluation.json                                                    evaluate
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from femur_jax import cards
from femur_jax import workdir as workdirs
from femur_jax.config import Config
from femur_jax.data.requests import draw_requests, wanted_labels
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import SyntheticSpool
from femur_jax.diffusion.generation import Model
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.evaluation.classification import (
    ClassifierTask,
    Predictions,
    label_counts,
    predict,
)
from femur_jax.evaluation.correlation import most_correlated
from femur_jax.evaluation.distances import frechet_distance, kernel_distance
from femur_jax.evaluation.features import pixel_features, thumbnails
from femur_jax.evaluation.memorization import audit, verdict
from femur_jax.evaluation.protocol import Part, Protocol, origin, protocol
from femur_jax.evaluation.summary import summarise
from femur_jax.files import write_atomically
from femur_jax.gan.task import GanTask
from femur_jax.models.functional import Params
from femur_jax.training import ema, loop
from femur_jax.training.state import TrainState

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
        return _classifier(config, _protocol(config))
    family = DiffusionTask if config.task == "diffusion" else GanTask
    return family(config, RadiographDataset(config.dataset))


def _protocol(config: Config) -> Protocol:
    """The parts that a classifier is trained, validated and tested on."""
    real = RadiographDataset(config.dataset)
    return protocol(
        _trained_on(config),
        real,
        RadiographDataset(config.test_dataset) if config.test_dataset else real,
        by=config.data.draw.by,
        columns=config.data.columns,
        before=_trained_before(config),
    )


def _trained_on(config: Config) -> list[RadiographDataset]:
    folders = config.train_datasets or (config.dataset,)
    return [RadiographDataset(folder) for folder in folders]


def _trained_before(config: Config) -> list[Part]:
    """What the run that this one starts from was trained on, and so on."""
    if not config.pretrained:
        return []
    first = workdirs.config_of(Path(config.pretrained))
    parts = [Part(d, d.split("train", first.data.draw.by)) for d in _trained_on(first)]
    return parts + _trained_before(first)


def _classifier(config: Config, parts: Protocol) -> ClassifierTask:
    datasets = [part.dataset for part in parts.training]
    start = None
    if config.pretrained:
        task = ClassifierTask(config, datasets)
        start = jax.device_get(loop.restore(task, config, Path(config.pretrained)).ema)
    return ClassifierTask(config, datasets, start, parts.validation)


def train(config: Config, workdir: Path) -> None:
    """Trains the model to its last step, from its newest checkpoint where there is one."""
    task = make_task(config)
    if isinstance(task, ClassifierTask) and not (task.validation and task.validation.radiographs):
        _tell("There are no validation patients of both classes: the last checkpoint is used.")
    loop.train(task, config, workdir)


def _tell(text: str) -> None:
    if jax.process_index() == 0:
        print(f"femur_jax: {text}", file=sys.stderr)


def sample(config: Config, workdir: Path) -> None:
    """Writes a dataset of synthetic radiographs into `workdir/synthetic`, and their cards.

    A run that was killed goes on with the radiographs that it has finished. Several processes share
    the work.

    Raises:
        UserError: The dataset exists, the run has no checkpoint, or it cannot make what is asked.
    """
    task = make_task(config)
    if isinstance(task, ClassifierTask):
        raise UserError("A classifier makes no radiographs; sample from diffusion or gan.")
    workdirs.claim(workdir, config, stage="sample", free=loop.FREE_FIELDS)
    requests = draw_requests(
        task.dataset,
        per_label=config.sample.per_label,
        seed=config.sample.seed,
        labels=wanted_labels(config.sample.labels, config.data.draw.label_shares),
        sizes=config.sample.sizes,
        by=config.data.draw.by,
        square=config.model.size if isinstance(task, GanTask) else None,
    )
    state = loop.restore(task, config, workdir)
    provenance = {
        "kind": "synthetic",
        "model": task.name,
        "config": workdirs.config_hash(config),
        "checkpoint": int(state.step),
        **origin(task.dataset, config.data.draw.by),
        **config.sample.to_dict(),
    }
    weak = None
    if isinstance(task, DiffusionTask) and config.sample.autoguidance:
        weak, provenance["autoguidance"] = _weak_model(task, config)
    spool = SyntheticSpool(
        workdir / SYNTHETIC, requests, patch=task.dataset.patch, provenance=provenance
    )
    own = range(jax.process_index(), len(requests), jax.process_count())
    if isinstance(task, GanTask):
        pixels = task.generate(state.ema, requests, seed=config.sample.seed, progress=True)
        made = enumerate(pixels)  # all of them each time, which takes seconds
    else:
        made = task.generate(
            _average(state, config, workdir),
            {number: requests[number] for number in own},
            config=config.sample,
            weak=weak,
            finished=spool.finished,
            progress=jax.process_index() == 0,
        )
    for number, pixels in made:
        if number in own and number not in spool.finished:
            spool.add(number, pixels)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("sampled")
    if jax.process_index() == 0:
        spool.write()
        cards.write(config, workdir, RadiographDataset(workdir / SYNTHETIC))


def _average(state: TrainState, config: Config, workdir: Path) -> Params:
    """The moving average of a width, put together from snapshots where it was not kept.

    Raises:
        UserError: That is not possible.
    """
    width = config.sample.ema
    if str(width) in state.ema:
        return state.ema[str(width)]
    target = ema.Profile(int(state.step), width)
    return ema.reconstruct(workdir / loop.SNAPSHOTS, state.ema, target)


def _weak_model(task: DiffusionTask, config: Config) -> tuple[Model, dict[str, Any]]:
    """The model of another run for autoguidance, and what names it.

    Raises:
        UserError: There is no such run, or its model does not fit.
    """
    workdir = Path(config.sample.autoguidance)
    weak = workdirs.config_of(workdir)
    for field in ("task", "dataset", "data", "diffusion"):
        if json.dumps(weak.to_dict().get(field)) != json.dumps(config.to_dict()[field]):
            raise UserError(
                f"The run in {workdir} differs in config.{field}, so it cannot guide this one "
                "(config.sample.autoguidance); name a run with a smaller model or fewer steps of "
                "the same data."
            )
    weak.mesh = config.mesh
    weak_task = DiffusionTask(weak, task.dataset)
    state = loop.restore(weak_task, weak, workdir)
    named = {"config": workdirs.config_hash(weak), "checkpoint": int(state.step)}
    return Model(weak_task.denoise, _average(state, config, workdir)), named


def evaluate(config: Config, workdir: Path) -> None:
    """Tests a classifier on real held-out patients, or compares synthetic radiographs with them.

    The result goes to `workdir/evaluation.json` and, in short, to the terminal.
    """
    task = make_task(config)
    workdirs.claim(workdir, config, stage="evaluate", free=loop.FREE_FIELDS)
    real = RadiographDataset(config.dataset)
    if isinstance(task, ClassifierTask):
        predictions = held_out_predictions(config, workdir)
        counts = label_counts([real], config.data.draw.by)
        result = summarise(
            predictions,
            trained_share=task.positive_share,
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
    parts = _protocol(config)
    task = _classifier(config, parts)
    params = loop.restore(task, config, workdir).ema
    return predict(task, params, parts.test.dataset, parts.test.radiographs)
