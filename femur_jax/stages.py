"""The stages of a single model's run: train, sample, evaluate, audit.

A stage reads what the one before it left in the workdir:

    WORKDIR/config.json, checkpoints/, scalars.jsonl, events.out.tfevents...   train
    WORKDIR/synthetic/, MODEL_CARD.md                                          sample
    WORKDIR/evaluation.json                                                    evaluate
    WORKDIR/audit/, audit.json                                                 audit
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from tqdm import tqdm

from femur_jax import cards
from femur_jax import workdir as workdirs
from femur_jax.config import Config
from femur_jax.data.requests import Request, draw_requests, wanted_labels
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import SyntheticSpool
from femur_jax.diffusion.generation import Model
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.evaluation import generator
from femur_jax.evaluation.classification import (
    ClassifierTask,
    Predictions,
    label_counts,
    predict,
)
from femur_jax.evaluation.features import Extractor, network, pixels
from femur_jax.evaluation.onset import Point, before_onset, table
from femur_jax.evaluation.protocol import Part, Protocol, origin, protocol
from femur_jax.evaluation.summary import summarise
from femur_jax.files import write_atomically
from femur_jax.gan.task import GanTask
from femur_jax.models.functional import Params
from femur_jax.training import ema, loop
from femur_jax.training.checkpoint import Snapshots
from femur_jax.training.monitor import event_writer
from femur_jax.training.state import TrainState

SYNTHETIC = "synthetic"
EVALUATION = "evaluation.json"
AUDIT = "audit"
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
    requests = _requests(task, config, config.sample.per_label)
    state = loop.restore(task, config, workdir)
    provenance = _provenance(task, config, config.sample.snapshot or int(state.step))
    provenance |= config.sample.to_dict()
    params = _average(state, config, workdir, config.sample.snapshot)
    weak = None
    if isinstance(task, DiffusionTask) and config.sample.autoguidance:
        weak, provenance["autoguidance"] = _weak_model(task, config)
    spool = SyntheticSpool(
        workdir / SYNTHETIC, requests, patch=task.dataset.patch, provenance=provenance
    )
    own = range(jax.process_index(), len(requests), jax.process_count())
    if isinstance(task, GanTask):
        pictures = task.generate(params, requests, seed=config.sample.seed, progress=True)
        made = enumerate(pictures)  # all of them each time, which takes seconds
    else:
        made = task.generate(
            params,
            {number: requests[number] for number in own},
            config=config.sample,
            weak=weak,
            finished=spool.finished,
            progress=jax.process_index() == 0,
        )
    for number, picture in made:
        if number in own and number not in spool.finished:
            spool.add(number, picture)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("sampled")
    if jax.process_index() == 0:
        spool.write()
        cards.write(config, workdir, RadiographDataset(workdir / SYNTHETIC))


def _requests(task: DiffusionTask | GanTask, config: Config, per_label: int) -> list[Request]:
    """What a generator is asked for: so many radiographs of each class."""
    return draw_requests(
        task.dataset,
        per_label=per_label,
        seed=config.sample.seed,
        labels=wanted_labels(config.sample.labels, config.data.draw.label_shares),
        sizes=config.sample.sizes,
        by=config.data.draw.by,
        square=config.model.size if isinstance(task, GanTask) else None,
    )


def _provenance(task: DiffusionTask | GanTask, config: Config, checkpoint: int) -> dict[str, Any]:
    """What a synthetic dataset tells of the model that made it."""
    return {
        "kind": "synthetic",
        "model": task.name,
        "config": workdirs.config_hash(config),
        "checkpoint": checkpoint,
        **origin(task.dataset, config.data.draw.by),
    }


def _average(state: TrainState, config: Config, workdir: Path, snapshot: int = 0) -> Params:
    """The moving average that samples are made with.

    Args:
        state: The newest of the run.
        config: Its `sample` has the width, where the run keeps averages by their width; one that
            was not kept is put together from snapshots.
        workdir: Of the run.
        snapshot: The step of a snapshot; 0 for the state's own.

    Raises:
        UserError: That is not possible.
    """
    step, stored = snapshot or int(state.step), state.ema
    if snapshot:
        snapshots = Snapshots(workdir / loop.SNAPSHOTS)
        if snapshot not in snapshots.steps:
            raise UserError(
                f"{workdir} has no snapshot of step {snapshot} (config.sample.snapshot); it has "
                f"{', '.join(map(str, snapshots.steps)) or 'none (config.train.snapshot_every)'}."
            )
        stored = snapshots.restore(snapshot, state.ema)
        snapshots.close()
    if "ema" not in config.sample:
        return stored
    width = config.sample.ema
    if str(width) in stored:
        return stored[str(width)]
    return ema.reconstruct(workdir / loop.SNAPSHOTS, state.ema, ema.Profile(step, width))


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
        synthetic = generator.open_synthetic(workdir / SYNTHETIC)
        extractor, by = _extractor(config), config.data.draw.by
        compared = generator.distances(real, synthetic, extractor, by=by)
        found = generator.copies(real, synthetic, extractor, by=by)
        result = {"features": extractor.name, **generator.as_json(compared, found)}
        print(generator.as_text(compared, found, extractor.name))
    write_atomically(workdir / EVALUATION, json.dumps(result))


def _extractor(config: Config) -> Extractor:
    """Of the features that a generator's radiographs are compared by."""
    weights = config.evaluate.weights
    return network(Path(weights)) if weights else pixels(_FEATURE_SIDE)


def audit(config: Config, workdir: Path) -> None:
    """Samples from each snapshot of a generator's run, and tells from which step on it copies.

    The curve goes to `workdir/audit.json`, to TensorBoard, and as a table to the terminal. A few
    radiographs of each snapshot stay in `workdir/audit/`; a run that was killed goes on with them.

    Raises:
        UserError: The run is a classifier's, or has no snapshots.
    """
    task = make_task(config)
    if isinstance(task, ClassifierTask):
        raise UserError("A classifier makes no radiographs; audit diffusion or gan.")
    workdirs.claim(workdir, config, stage="audit", free=loop.FREE_FIELDS)
    state = loop.restore(task, config, workdir)
    steps = Snapshots(workdir / loop.SNAPSHOTS).steps if (workdir / loop.SNAPSHOTS).is_dir() else []
    if not steps:
        raise UserError(
            f"{workdir} has no snapshots to audit; train with --config.train.snapshot_every=STEPS."
        )
    extractor = _extractor(config)
    events = event_writer(workdir / AUDIT)
    points = []
    for step in tqdm(steps, "audit", disable=None):
        folder = workdir / AUDIT / f"step_{step}"
        if not folder.exists():
            _sample_snapshot(task, config, workdir, state, step, folder)
        synthetic = generator.open_synthetic(folder)
        found = generator.copies(task.dataset, synthetic, extractor, by=config.data.draw.by)
        points.append(Point.of(step, found))
        if events:
            events.write_scalars(
                step, {f"audit/{name}": float(v) for name, v in vars(points[-1]).items()}
            )
    if events:
        events.close()
    result = {
        "before_onset": before_onset(points),
        "points": [dataclasses.asdict(point) for point in points],
    }
    write_atomically(workdir / f"{AUDIT}.json", json.dumps(result, indent=1))
    print(table(points))


def _sample_snapshot(
    task: DiffusionTask | GanTask,
    config: Config,
    workdir: Path,
    state: TrainState,
    step: int,
    folder: Path,
) -> None:
    """Writes a dataset of a few radiographs made with a snapshot."""
    requests = _requests(task, config, config.evaluate.per_label)
    params = _average(state, config, workdir, step)
    provenance = _provenance(task, config, step)
    spool = SyntheticSpool(folder, requests, patch=task.dataset.patch, provenance=provenance)
    if isinstance(task, GanTask):
        made = enumerate(task.generate(params, requests, seed=config.sample.seed))
    else:
        made = task.generate(params, dict(enumerate(requests)), config=config.sample)
    for number, picture in made:
        spool.add(number, picture)
    spool.write()


def held_out_predictions(config: Config, workdir: Path) -> Predictions:
    """What the trained classifier in a workdir says of the radiographs that it is tested on."""
    parts = _protocol(config)
    task = _classifier(config, parts)
    params = loop.restore(task, config, workdir).ema
    return predict(task, params, parts.test.dataset, parts.test.radiographs)
