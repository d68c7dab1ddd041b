"""The classifier of fractures: AFF against NFF, from letterboxed radiographs."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt16
from ml_collections import ConfigDict

from femur_jax.classifier.covariates import Standardisation
from femur_jax.classifier.groups import groups_of
from femur_jax.data.letterbox import best_shape, letterbox, letterbox_mask
from femur_jax.data.loader import Pool, Stream, random_letterboxes
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import PatientScores, patient_scores
from femur_jax.models.functional import Functions, Params, functional
from femur_jax.models.resnet import ResNet, imported_trunk
from femur_jax.models.torch_file import read_weights
from femur_jax.parallel.rules import Rules
from femur_jax.training.accumulate import mean_over_microbatches
from femur_jax.training.schedule import warm_up_and_decay
from femur_jax.training.state import TrainState, init_state, update_ema, update_state
from femur_jax.training.task import Metrics


class ClassifierTask:
    """A residual network on radiographs of any size, shrunk into one of a few shapes."""

    name = "classifier"
    rules: Rules = ()
    sample_bytes = 0

    def __init__(
        self,
        config: ConfigDict,
        datasets: Sequence[RadiographDataset],
        start: Params | None = None,
    ):
        """Trains on the train splits of all `datasets`.

        Args:
            config: The config of the run, see configs/classifier.py.
            datasets: Real and synthetic datasets; see `protocol` for what is fair.
            start: Parameters of the same model to start from.

        Raises:
            UserError: The file of weights, `config.weights`, cannot be used,
                `config.data.dataset_shares` or `config.data.per_label` does not fit the datasets,
                or a class is never drawn.
        """
        self.config = config
        self.datasets = datasets
        self.columns = tuple(config.data.columns)
        self.model = _network(2 * len(self.columns), **config.model)
        self.optimizer = optax.adamw(self._schedule(), weight_decay=config.train.weight_decay)
        self.start = start
        if start is None and config.weights:
            if config.model.norm != "fixed":
                raise UserError(
                    "config.weights has the statistics of batch normalisation, which need "
                    "config.model.norm = 'fixed'; set it."
                )
            drawn = jax.jit(self.model.init)(jax.random.key(config.seed))
            self.start = imported_trunk(drawn, read_weights(Path(config.weights)), grey=True)
        shares = config.data.dataset_shares
        labels = config.data.draw.label_shares
        if labels and min(labels) <= 0:
            raise UserError(
                f"config.data.draw.label_shares are {tuple(labels)}, but a classifier needs both "
                "classes; give two numbers above zero."
            )
        most = config.data.per_label
        if most and (len(most) != len(datasets) or min(most) < 0):
            raise UserError(
                f"config.data.per_label is {tuple(most)} for {len(datasets)} datasets; give a "
                "number for each, 0 for all radiographs, or leave it empty."
            )
        if shares and (len(shares) != len(datasets) or min(shares) <= 0):
            raise UserError(
                f"config.data.dataset_shares are {tuple(shares)} for {len(datasets)} datasets; "
                "give a number above zero for each, or leave it empty."
            )

    @property
    def _settings(self) -> tuple:
        """What `step` and `classify` follow from."""
        known = self._standardisation if self.columns else None
        standard = (known.mean.tobytes(), known.deviation.tobytes()) if known else ()
        fields = [self.config[name].to_dict() for name in ("model", "train")]
        return json.dumps(fields, sort_keys=True), self.columns, standard

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._settings == other._settings

    def __hash__(self) -> int:
        return hash(self._settings)

    @cached_property
    def classify(self) -> Callable[..., Any]:
        """The compiled function from parameters and a batch to logits and features."""
        return _classify(self)

    def init(self, key: Key[Array, ""]) -> TrainState:
        params = self.model.init(key) if self.start is None else self.start
        params = jax.tree.map(jnp.asarray, params)
        return init_state(params, params, self.optimizer)

    def _schedule(self, steps: int | None = None) -> optax.Schedule:
        return warm_up_and_decay(self.config.train, last=0.0, steps=steps)

    def learning_rate(self, step: int, steps: int) -> float:
        return float(np.asarray(self._schedule(steps)(step)))

    @cached_property
    def pools(self) -> list[Pool]:
        """The radiographs of all datasets together, or of each where it has a share."""
        data = self.config.data
        numbered = list(enumerate(self.datasets))
        groups = [[one] for one in numbered] if data.dataset_shares else [numbered]
        return [
            Pool(
                [dataset for _, dataset in group],
                per_label=[data.per_label[n] for n, _ in group] if data.per_label else (),
                seed=self.config.seed,
                **data.draw,
            )
            for group in groups
        ]

    def data_digest(self) -> str:
        return hashlib.sha256("".join(pool.digest() for pool in self.pools).encode()).hexdigest()

    def streams(self) -> list[Stream]:
        """Returns the streams of all datasets together, or of each with its share."""
        shares = self.config.data.dataset_shares or (1.0,)
        return [
            Stream(samples, weight * share)
            for pool, share in zip(self.pools, shares, strict=True)
            for samples, weight in random_letterboxes(
                pool,
                shapes=self.config.data.shapes,
                seed=self.config.seed,
                columns=self.columns,
                enlarge=True,
            )
        ]

    @cached_property
    def positive_share(self) -> float:
        """The share of the positive class among the radiographs drawn in training."""
        shares = self.config.data.draw.label_shares
        if not shares:
            drawn = [d.entries[n].label for pool in self.pools for d, n in pool.radiographs]
            shares = [drawn.count(label) for label in LABELS]
        return float(shares[1] / sum(shares))

    @cached_property
    def _standardisation(self) -> Standardisation:
        by = self.config.data.draw.by
        entries = [d.entries[n] for d in self.datasets for n in d.split("train", by)]
        return Standardisation.over_patients(entries, self.columns)

    def _covariates(self, batch: dict[str, Array]) -> Float[Array, "batch columns"] | None:
        return self._standardisation(batch["columns"]) if self.columns else None

    def logits(
        self, params: Params, batch: dict[str, Array]
    ) -> tuple[Float[Array, " batch"], Float[Array, "batch dim"]]:
        """Returns logits of an atypical fracture, and the features that they are made of."""
        images = jnp.concatenate(standardised(batch["pixels"], batch["box"]), axis=-1)
        return self.model.apply(params, images, self._covariates(batch))

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        def loss_and_gradient(batch: dict[str, Array], key: Key[Array, ""]):
            return jax.value_and_grad(self.loss)(state.params, batch, key)

        microbatches = self.config.train.accumulate
        loss, gradient = mean_over_microbatches(loss_and_gradient, batch, key, microbatches)
        average = partial(update_ema, decay=self.config.train.ema_decay)
        return update_state(state, gradient, self.optimizer, average), {"loss": loss}

    def loss(
        self, params: Params, batch: dict[str, Array], key: Key[Array, ""]
    ) -> Float[Array, ""]:
        """Returns the mean cross-entropy over a batch of `Letterbox`, augmented."""
        logits, _ = self.model.apply(params, self._augmented(batch, key), self._covariates(batch))
        return optax.sigmoid_binary_cross_entropy(logits, batch["label"]).mean()

    def _augmented(
        self, batch: dict[str, Array], key: Key[Array, ""]
    ) -> Float[Array, "batch height width channels"]:
        displacement_key, grey_key = jax.random.split(key)
        pixels, mask = standardised(batch["pixels"], batch["box"])
        displacement = dict(self.config.train.augment)
        deviation = displacement.pop("grey")
        gain, offset = deviation * jax.random.normal(grey_key, (2, len(pixels), 1, 1, 1))
        images = jnp.concatenate([(pixels * (1 + gain) + offset) * mask, mask], axis=-1)
        return displaced(displacement_key, images, **displacement)

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns some training images, before the augmentation."""
        return {
            f"inputs_{number}": np.stack([sample["pixels"] for sample in samples[:8]])[..., None]
            / np.float32(65535)
            for number, (samples, _) in enumerate(self.streams())
        }


@cache
def _network(columns: int, **model: Any) -> Functions:
    """The network of a config, built once for all classifiers of a study."""
    functions = functional(lambda rngs: ResNet(**model, in_channels=3, columns=columns, rngs=rngs))
    return Functions(jax.jit(functions.init), functions.apply)


@lru_cache(maxsize=2)
def _classify(task: ClassifierTask) -> Callable[..., Any]:
    """The compiled `logits` of equal classifiers."""
    return jax.jit(task.logits)


def standardised(
    pixels: UInt16[Array, "batch height width"], box: Int[Array, "batch 4"]
) -> tuple[Float[Array, "batch height width 2"], Float[Array, "batch height width 1"]]:
    """Standardises letterboxed radiographs for the network.

    Returns:
        Grey values and their difference from the mean of the surroundings, in which bone stands out
        from soft tissue, each with zero mean and unit variance within the letterbox; and the mask
        of the letterbox.
    """
    mask = letterbox_mask(box, (pixels.shape[1], pixels.shape[2]))
    grey = pixels.astype(jnp.float32)[..., None] / 65535 * mask
    side = 2 * (min(pixels.shape[1:]) // 16) + 1

    def sums(image: Array) -> Array:
        # Along one side and then the other: fewer additions than over the whole square.
        for window in ((1, side, 1, 1), (1, 1, side, 1)):
            image = jax.lax.reduce_window(image, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
        return image

    local = grey - sums(grey) / jnp.maximum(sums(mask), 1.0)
    images = jnp.concatenate([grey, local], axis=-1)
    count = mask.sum((1, 2, 3), keepdims=True)
    centred = (images - (images * mask).sum((1, 2), keepdims=True) / count) * mask
    deviation = jnp.sqrt((centred**2).sum((1, 2), keepdims=True) / count)
    return centred / (deviation + 1e-6), mask


def displaced(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    *,
    mirror: bool,
    zoom: float,
    shift: float,
) -> Float[Array, "batch height width channels"]:
    """Scales and shifts each image at random, fills up with zeros, and may mirror half of them.

    Args:
        key: The key of the random numbers.
        images: Images with zeros around them.
        mirror: Whether to mirror half of the images.
        zoom: Standard deviation of the logarithm of the scale.
        shift: Standard deviation of the shift, relative to each side.
    """
    keys = jax.random.split(key, 3)
    count, *shape, channels = images.shape
    size = jnp.array(shape, jnp.float32)
    scale = jnp.exp(zoom * jax.random.normal(keys[0], (count, 1))) * jnp.ones(2)
    # Scales around the middle, which only the shift moves.
    offset = (0.5 * (1 - scale) + shift * jax.random.normal(keys[1], (count, 2))) * size
    flip = mirror & jax.random.bernoulli(keys[2], shape=(count, 1, 1, 1))

    def move(image: Array, scale: Array, offset: Array) -> Array:
        return jax.image.scale_and_translate(
            image, (*shape, channels), (0, 1), scale, offset, method="linear", antialias=False
        )

    moved = jax.vmap(move)(images, scale, offset)
    return jnp.where(flip, moved[:, :, ::-1], moved)


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions for some radiographs.

    Attributes:
        logit: The logit of an atypical fracture.
        features: The input of the last layer.
        positive: Whether the fracture is atypical.
        patients: Pseudonyms of the patients.
        hospitals: Pseudonyms of the hospitals.
        groups: The group of each radiograph, by what they are grouped by; see `groups_of`.
    """

    logit: Float[np.ndarray, "n"]
    features: Float[np.ndarray, "n dim"]
    positive: Bool[np.ndarray, "n"]
    patients: list[str]
    hospitals: list[str]
    groups: dict[str, list[str]]

    def by_patient(self) -> PatientScores:
        """Returns each patient's mean logit over the views."""
        return patient_scores(np.asarray(self.logit, np.float64), self.positive, self.patients)


def predict(
    task: ClassifierTask, params: Params, dataset: RadiographDataset, radiographs: Sequence[int]
) -> Predictions:
    """Runs a classifier over radiographs of a dataset, given by position.

    Each is reduced or enlarged to the same scale: a classifier of large bones does not know small
    ones, and generators make radiographs of other sizes than real ones.
    """
    batch_size, shapes = task.config.train.batch_size, task.config.data.shapes
    entries = [dataset.entries[n] for n in radiographs]
    best = [best_shape((entry.height, entry.width), shapes, enlarge=True) for entry in entries]
    outputs: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by position in `radiographs`
    for number, shape in enumerate(shapes):
        members = [n for n, chosen in enumerate(best) if chosen == number]
        for first in range(0, len(members), batch_size):
            chosen = members[first : first + batch_size]
            padded = [chosen[min(n, len(chosen) - 1)] for n in range(batch_size)]
            boxes = [
                letterbox(dataset, radiographs[n], shape, task.columns, enlarge=True)
                for n in padded
            ]
            batch = {name: np.stack([b[name] for b in boxes]) for name in boxes[0]}
            logits, features = (np.asarray(o) for o in task.classify(params, batch))
            outputs |= {n: (logits[i], features[i]) for i, n in enumerate(chosen)}
    ordered = [outputs[n] for n in range(len(entries))]
    logit, features = (np.stack(rows) for rows in zip(*ordered, strict=True))
    return Predictions(
        logit=logit,
        features=features,
        positive=np.array([e.label == LABELS[1] for e in entries]),
        patients=[e.patient for e in entries],
        hospitals=[e.hospital for e in entries],
        groups=groups_of(entries),
    )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of several parts as one."""
    return Predictions(
        logit=np.concatenate([part.logit for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        positive=np.concatenate([part.positive for part in parts]),
        patients=[patient for part in parts for patient in part.patients],
        hospitals=[hospital for part in parts for hospital in part.hospitals],
        groups={
            name: [group for part in parts for group in part.groups[name]]
            for name in parts[0].groups
            if all(name in part.groups for part in parts)
        },
    )


def label_counts(datasets: Sequence[RadiographDataset], by: str) -> list[int]:
    """Returns the number of radiographs of each label in the train splits."""
    labels = [d.entries[n].label for d in datasets for n in d.split("train", by)]
    return [labels.count(label) for label in LABELS]
