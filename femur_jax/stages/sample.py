"""The stage in which a generator generates radiographs."""

import json
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.classifier.protocol import origin
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request, SyntheticSpool, draw_requests, wanted_labels
from femur_jax.diffusion.generation import Model
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.models.functional import Params
from femur_jax.stages import cards
from femur_jax.stages.tasks import make_generator, origins_before
from femur_jax.training import ema, loop
from femur_jax.training.checkpoint import Snapshots
from femur_jax.training.state import TrainState
from femur_jax.training.task import Generator

SYNTHETIC = "synthetic"


def sample(config: ConfigDict, workdir: Path) -> None:
    """Writes a dataset of synthetic radiographs into `workdir/synthetic`, and their cards.

    A run that was killed resumes with the radiographs that it has finished. Several processes share
    the work.

    Raises:
        UserError: The dataset exists, the run has no checkpoint, or the model cannot generate the
            requested radiographs.
    """
    task = make_generator(config)
    run_folder.claim(workdir, config, stage="sample", free=loop.FREE_FIELDS)
    requests = _requests(task, config, config.sample.per_label)
    state = loop.restore(task, config, workdir)
    provenance = _provenance(task, config, config.sample.snapshot or int(state.step))
    provenance |= config.sample.to_dict()
    params = average(state, config, workdir, config.sample.snapshot)
    weak = None
    if config.sample.get("autoguidance"):
        weak, provenance["autoguidance"] = _weak_model(task, config)
    spool = SyntheticSpool(
        workdir / SYNTHETIC, requests, patch=task.dataset.patch, provenance=provenance
    )
    share = range(jax.process_index(), len(requests), jax.process_count())
    guidance: dict[str, Any] = {"weak": weak} if weak else {}
    for number, pixels in task.generate(
        params,
        {number: requests[number] for number in share},
        sample=config.sample,
        finished=spool.finished,
        progress=jax.process_index() == 0,
        **guidance,
    ):
        if number not in spool.finished:
            spool.add(number, pixels)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("sampled")
    if jax.process_index() == 0:
        spool.write()
        cards.write(config, workdir, RadiographDataset(workdir / SYNTHETIC))


def _requests(task: Generator, config: ConfigDict, per_label: int) -> list[Request]:
    """Requests for a number of radiographs of each class."""
    return draw_requests(
        task.dataset,
        per_label=per_label,
        seed=config.sample.seed,
        labels=wanted_labels(config.sample.labels, config.data.draw.label_shares),
        sizes=config.sample.sizes,
        by=config.data.draw.by,
        square=task.square,
    )


def _provenance(task: Generator, config: ConfigDict, checkpoint: int) -> dict[str, Any]:
    """What a synthetic dataset states about the model that generated it."""
    return {
        "kind": "synthetic",
        "model": task.name,
        "config": run_folder.config_hash(config, without=loop.FREE_FIELDS),
        "checkpoint": checkpoint,
        **origin(task.dataset, config.data.draw.by),
        "started_from": origins_before(config),
    }


def average(state: TrainState, config: ConfigDict, workdir: Path, snapshot: int = 0) -> Params:
    """The moving average of the parameters that generates samples.

    Args:
        state: The newest state of the run.
        config: Config of the run. `sample.ema` is the width, where a run keeps averages by their
            width; an average that was not kept is reconstructed from snapshots.
        workdir: Run directory of the generator.
        snapshot: The step of a snapshot; 0 for the state itself.

    Raises:
        UserError: There is no such snapshot, or none to reconstruct the average from.
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


def _weak_model(task: Generator, config: ConfigDict) -> tuple[Model, dict[str, Any]]:
    """The model of another run for autoguidance, and its provenance.

    Raises:
        UserError: There is no such run, or its model does not fit.
    """
    workdir = Path(config.sample.autoguidance)
    weak = run_folder.load_config(workdir)
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
    provenance = {
        "config": run_folder.config_hash(weak, without=loop.FREE_FIELDS),
        "checkpoint": int(state.step),
    }
    return Model(weak_task.denoise, average(state, config, workdir)), provenance


def write_samples(
    task: Generator, config: ConfigDict, params: Params, step: int, folder: Path
) -> RadiographDataset:
    """Writes a dataset of a few radiographs, `config.evaluate.per_label` of each class.

    Args:
        task: The trained generator.
        config: Config of the run.
        params: Parameters of one moving average.
        step: The training step of the parameters.
        folder: The folder of the new dataset.
    """
    requests = _requests(task, config, config.evaluate.per_label)
    provenance = _provenance(task, config, step)
    spool = SyntheticSpool(folder, requests, patch=task.dataset.patch, provenance=provenance)
    samples = task.generate(params, dict(enumerate(requests)), sample=config.sample)
    for number, pixels in samples:
        spool.add(number, pixels)
    spool.write()
    return RadiographDataset(folder)
