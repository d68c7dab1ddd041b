"""What the GAN learns of simulated radiographs in a fixed number of steps on CPU."""

import runpy
import tempfile
from pathlib import Path
from time import perf_counter

import jax
import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict
from scipy.spatial.distance import cdist

from benchmarks.cohorts import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.measurements import Found
from femur_jax.data.letterbox import paste_centred
from femur_jax.data.loader import batches
from femur_jax.data.pyramid import shrink
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import draw_requests
from femur_jax.evaluation.distances import kernel_distance
from femur_jax.evaluation.features import pixels, radiograph_features
from femur_jax.gan.task import GanTask
from femur_jax.models.functional import Params
from femur_jax.training import loop
from femur_jax.training.monitor import read_scalars
from femur_jax.training.state import TrainState

_ROOT = Path(__file__).parents[1]
_SIDE = 32  # of the features
_SAMPLES = 150  # of each class
_NEIGHBOURS = 5
_LAZY_STEPS, _LAZY_BURN_IN = 300, 3200  # the schedules end, counted in images, after 200 steps


def kid_from_start() -> Found:
    """See `measurements.gan_kid_from_start`."""
    with tempfile.TemporaryDirectory() as folder:
        return trained_on_phantoms(Path(folder))


def trained_on_phantoms(folder: Path) -> Found:
    """The same, leaving its data and its run in a folder."""
    config = runpy.run_path(str(_ROOT / "configs" / "gan.py"))["get_config"]("tiny")
    dataset = simulated(folder)
    config.dataset = str(dataset.folder)
    task = GanTask(config, dataset)
    begin = perf_counter()
    state = loop.train(task, config, folder / "run")
    seconds = perf_counter() - begin
    untrained = jax.jit(task.init)(jax.random.key(config.seed)).ema
    real = _features(dataset, "test")
    floor = kernel_distance(real, _features(dataset, "validation")).value
    before, after = (_samples(task, params, config) for params in (untrained, state.ema))
    kid = {
        name: kernel_distance(real, made).value
        for name, made in (("start", before), ("end", after))
    }
    labels = np.repeat(np.arange(len(LABELS)), _SAMPLES)
    covered = {
        label: float(np.mean(recalled(_features(dataset, "test", label), after[labels == n])))
        for n, label in enumerate(LABELS)
    }
    last = read_scalars(folder / "run")[-1]
    return Found(
        value=kid["start"] / kid["end"],
        device=cpu(),
        details={
            "KID at the start": kid["start"],
            "KID at the end": kid["end"],
            "KID of real validation radiographs": floor,
            **{f"recall of {label}": value for label, value in covered.items()},
            "r_t at the end": last["r_t"],
            "augmentation p at the end": last["augment_p"],
            "R1 at the end": last["r1"],
            "R2 at the end": last["r2"],
            "steps": config.train.steps,
            "batch": config.train.batch_size,
            "seconds of training": seconds,
        },
    )


def lazy_over_full() -> Found:
    """See `measurements.gan_lazy_penalties`."""
    with tempfile.TemporaryDirectory() as name:
        dataset = simulated(Path(name))
        real = _features(dataset, "test")
        full, lazy = (_Run(dataset, penalty_interval) for penalty_interval in (1, 8))
        seconds = full.train(_LAZY_STEPS), lazy.train(_LAZY_STEPS)
        kid, of_lazy = full.kid(real), lazy.kid(real)
    return Found(
        value=of_lazy / kid,
        device=cpu(),
        details={
            "KID with penalties at every step": kid,
            "KID with penalties at every 8th step": of_lazy,
            "steps": _LAZY_STEPS,
            "seconds of both": seconds,
        },
    )


class _Run:
    """A training of the tiny GAN that can be timed."""

    def __init__(self, dataset: RadiographDataset, penalty_interval: int):
        self.config = runpy.run_path(str(_ROOT / "configs" / "gan.py"))["get_config"]("tiny")
        self.config.train.update(penalty_interval=penalty_interval, burn_in_images=_LAZY_BURN_IN)
        self.task = GanTask(self.config, dataset)
        sharding = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
        self._batches = batches(
            self.task.streams(),
            batch_size=self.config.train.batch_size,
            start=0,
            sharding=sharding,
        )
        self._key = jax.random.key(self.config.seed)
        self._state = jax.jit(self.task.init, out_shardings=sharding)(self._key)

        def update(state: TrainState, batch: dict, key: jax.Array) -> TrainState:
            return self.task.step(state, batch, jax.random.fold_in(key, state.step))[0]

        shapes = (self._state, next(self._batches), self._key)
        self._update = jax.jit(update, donate_argnums=0).lower(*shapes).compile()

    def train(self, steps: int) -> float:
        """Wall time of some steps, without compilation."""
        begin = perf_counter()
        for _ in range(steps):
            self._state = self._update(self._state, next(self._batches), self._key)
        jax.block_until_ready(self._state)
        return perf_counter() - begin

    def kid(self, real: Float[np.ndarray, "n pixels"]) -> float:
        """Of what the moving average makes."""
        return kernel_distance(real, _samples(self.task, self._state.ema, self.config)).value


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


def recalled(
    real: Float[np.ndarray, "real dim"], made: Float[np.ndarray, "made dim"]
) -> Bool[np.ndarray, " real"]:
    """Whether each real one lies within the made ones' manifold.

    Kynkäänniemi et al. 2019, arXiv 1904.06991: closer to any made one than that one's k-th
    neighbour among the made ones; the mean is the recall.
    """
    radius = np.sort(cdist(made, made), axis=1)[:, _NEIGHBOURS]
    return np.any(cdist(real, made) <= radius, axis=1)


def _features(
    dataset: RadiographDataset, split: str, label: str | None = None
) -> Float[np.ndarray, "n pixels"]:
    wanted = [n for n in dataset.split(split) if label in (None, dataset.entries[n].label)]
    return radiograph_features(pixels(_SIDE), dataset, wanted)


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
