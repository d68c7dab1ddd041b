"""The model that a config names, with its training data."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.classifier.protocol import Protocol, Subset, origin, protocol
from femur_jax.classifier.task import ClassifierTask
from femur_jax.data.shards import RadiographDataset
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.example import EXAMPLE
from femur_jax.gan.task import GanTask
from femur_jax.training import loop
from femur_jax.training.task import Generator, Task


def make_task(config: ConfigDict) -> Task:
    """The model that `config.task` names, with its training data.

    Raises:
        UserError: The model is unknown, or there is no dataset.
    """
    if config.task == "classifier":
        return make_classifier(config, classifier_protocol(config))
    return make_generator(config)


def make_generator(config: ConfigDict) -> Generator:
    """The generator that `config.task` names, with its training data.

    Raises:
        UserError: The model is unknown or a classifier, or there is no dataset.
    """
    if config.task == "classifier":
        raise UserError("A classifier generates no radiographs; use diffusion or gan.")
    if config.task not in ("diffusion", "gan"):
        raise UserError(f"config.task is {config.task!r}; write diffusion, gan or classifier.")
    dataset = _open(config.dataset)
    if config.task == "gan":
        return GanTask(config, dataset)
    return DiffusionTask(config, dataset)


def origins_before(config: ConfigDict) -> list[dict[str, str]]:
    """The data of the run that a generator's run starts from, and of those before it.

    The shipped denoiser has none, since it was trained on simulated patients alone.

    Raises:
        UserError: There is no such run, it trains another model, or its dataset is gone.
    """
    if not config.pretrained:
        return []
    if config.pretrained == EXAMPLE:
        if config.task != "diffusion":
            raise UserError(
                f"The example's model (config.pretrained) is a diffusion model, not {config.task}."
            )
        return []
    first = run_folder.load_config(Path(config.pretrained))
    if first.task != config.task:
        raise UserError(
            f"The run in {config.pretrained} (config.pretrained) trains another model, "
            f"{first.task}; name a run of {config.task}."
        )
    if not Path(first.dataset).is_dir():
        raise UserError(
            f"The dataset of the run in {config.pretrained} (config.pretrained) is needed to check "
            f"that its patients are not tested, and {first.dataset} is not there; run the command "
            "in the folder that its path starts from, or start without that run."
        )
    data = RadiographDataset(first.dataset)
    return [origin(data, first.data.draw.by), *origins_before(first)]


def _open(folder: str) -> RadiographDataset:
    if not folder:
        raise UserError("No dataset is named; add --config.dataset=FOLDER.")
    return RadiographDataset(folder)


def classifier_protocol(config: ConfigDict) -> Protocol:
    """The subsets that a classifier is trained, validated and tested on."""
    real = _open(config.dataset)
    return protocol(
        _trained_on(config),
        real,
        RadiographDataset(config.test_dataset) if config.test_dataset else real,
        by=config.data.draw.by,
        columns=config.data.columns,
        before=_trained_before(config),
    )


def _trained_on(config: ConfigDict) -> list[RadiographDataset]:
    folders = config.train_datasets or (config.dataset,)
    return [RadiographDataset(folder) for folder in folders]


def _trained_before(config: ConfigDict) -> list[Subset]:
    """The training data of the run that this one starts from, and of those before it."""
    if not config.pretrained:
        return []
    first = run_folder.load_config(Path(config.pretrained))
    subsets = [Subset(d, d.split("train", first.data.draw.by)) for d in _trained_on(first)]
    return subsets + _trained_before(first)


def make_classifier(config: ConfigDict, subsets: Protocol) -> ClassifierTask:
    """The classifier of a config, which starts from `config.pretrained` where it is named."""
    datasets = [subset.dataset for subset in subsets.training]
    start = None
    if config.pretrained:
        task = ClassifierTask(config, datasets)
        start = jax.device_get(loop.restore(task, config, Path(config.pretrained)).ema)
    return ClassifierTask(config, datasets, start)
