"""What the GAN learns of simulated radiographs in a fixed number of steps on CPU."""

import tempfile
from pathlib import Path
from time import perf_counter

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from benchmarks.datasets import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from configs.gan import get_config
from femur_jax.data.letterbox import paste_centred
from femur_jax.data.pyramid import shrink
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import draw_requests
from femur_jax.evaluation.distances import manifold
from femur_jax.evaluation.features import pixels, radiograph_features
from femur_jax.evaluation.kernels import kernel_distance
from femur_jax.gan.task import GanTask
from femur_jax.models.functional import Params
from femur_jax.training import loop
from femur_jax.training.monitor import read_scalars

_SIDE = 32  # of the features
_SAMPLES = 150  # of each class
_NEIGHBOURS = 5


@measurement("x", Goal(">=", 5.0), timed=False)
def gan_kid_from_start() -> Result:
    """How much the KID of the tiny GAN on simulated radiographs falls in 600 steps; takes minutes.

    900 radiographs of 600 simulated patients train it in letterboxes of 64 x 64 pixels, 16 at a
    step, on CPU. KID is against the test split, with the pixels of 32 x 32 letterboxes as features,
    before the first step and after the last; the details give the floor, validation against test,
    and the recall (Kynkäänniemi et al. 2019, k = 5) of each class, which should be above 0.1.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _trained_on_phantoms(Path(folder))


def _trained_on_phantoms(folder: Path) -> Result:
    config = get_config("tiny")
    dataset = simulated(folder)
    config.dataset = str(dataset.folder)
    task = GanTask(config, dataset)
    start_time = perf_counter()
    state = loop.train(task, config, folder / "run")
    seconds = perf_counter() - start_time
    untrained = jax.jit(task.init)(jax.random.key(config.seed)).ema
    real = _features(dataset, "test")
    floor = kernel_distance(real, _features(dataset, "validation")).value
    before, after = (_samples(task, params, config) for params in (untrained, state.ema))
    kid_before, kid_after = (kernel_distance(real, samples).value for samples in (before, after))
    labels = np.repeat(np.arange(len(LABELS)), _SAMPLES)
    recalls = {
        label: manifold(_features(dataset, "test", label), after[labels == n], k=_NEIGHBOURS).recall
        for n, label in enumerate(LABELS)
    }
    last = read_scalars(folder / "run")[-1]
    return Result(
        value=kid_before / kid_after,
        device=cpu(),
        details={
            "KID at the start": kid_before,
            "KID at the end": kid_after,
            "KID of real validation radiographs": floor,
            **{f"recall of {label}": value for label, value in recalls.items()},
            "r_t at the end": last["r_t"],
            "augmentation p at the end": last["augment_p"],
            "R1 at the end": last["r1"],
            "R2 at the end": last["r2"],
            "steps": config.train.steps,
            "batch": config.train.batch_size,
            "seconds of training": seconds,
        },
    )


def simulated(folder: Path) -> RadiographDataset:
    """A dataset of 900 radiographs of 600 patients, 64 to 128 pixels long."""
    return simulated_dataset(
        folder,
        patch=64,
        fractions=(0.15, 0.25),
        patients=600,
        images=900,
        hospitals=8,
        aff_fraction=0.4,
        long_side=(64, 128),
        coarsest_mm=1.2,
        seed=7,
    )


def _features(
    dataset: RadiographDataset, split: str, label: str | None = None
) -> Float[np.ndarray, "n pixels"]:
    chosen = [n for n in dataset.split(split) if label in (None, dataset.entries[n].label)]
    return radiograph_features(pixels(_SIDE), dataset, chosen)


def _samples(task: GanTask, params: Params, config: ConfigDict) -> Float[np.ndarray, "n pixels"]:
    """Features of generated radiographs, label by label."""
    requests = draw_requests(task.dataset, per_label=_SAMPLES, seed=1)
    square = (_SIDE, _SIDE)
    sample = config.sample.copy_and_resolve_references()
    sample.seed = 1
    squares = [
        paste_centred(shrink(pixels, square), square)[0]
        for _, pixels in task.generate(params, dict(enumerate(requests)), sample=sample)
    ]
    return np.stack(squares).reshape(len(squares), -1).astype(np.float32) / 65535
