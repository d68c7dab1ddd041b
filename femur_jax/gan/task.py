"""Training the R3GAN baseline on letterboxed radiographs."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, UInt16
from ml_collections import ConfigDict

from femur_jax.data.letterbox import letterbox_box, letterbox_mask, paste_centred
from femur_jax.data.loader import Pool, Stream, random_letterboxes
from femur_jax.data.pyramid import fitted_size
from femur_jax.data.radiograph import LABELS, to_grey, to_unit
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request, draw_requests, wanted_labels
from femur_jax.errors import UserError
from femur_jax.gan import augment
from femur_jax.gan.augment import Augmentation
from femur_jax.gan.losses import burn_in, discriminator_loss, generator_loss
from femur_jax.models.functional import Functions, Params, functional
from femur_jax.models.r3gan import Discriminator, Generator
from femur_jax.parallel.rules import Rules
from femur_jax.progress import Progress
from femur_jax.training.accumulate import mean_over_microbatches
from femur_jax.training.state import TrainState
from femur_jax.training.task import Metrics

CONDITIONS = len(LABELS) + 2
"""The length of the condition: class, and the radiograph's height and width within the square."""

RUN_AWAY = 1e6
"""The size of a penalty from which a discriminator has diverged; normally it stays below 10."""


class GanTask:
    """Generator and discriminator of one fixed size, which handle sizes by letterboxes.

    The generator fills the whole square. Its image is multiplied by the letterbox's mask, which the
    discriminator sees as a second channel. After sampling, the letterbox is cut out.

    The train state's `optimizer` also holds the state of the augmentation.
    """

    name = "gan"
    rules: Rules = ()
    sample_bytes = 0

    def __init__(self, config: ConfigDict, dataset: RadiographDataset):
        """Builds the networks; see configs/gan.py for the fields of `config`.

        Raises:
            UserError: The model's sizes do not fit together, or a setting is out of range.
        """
        _check(config)
        self.config = config
        self.dataset = dataset
        model = config.model
        shape = {"blocks": model.blocks, "group_width": model.group_width}

        def discriminator(dtype: DTypeLike) -> Functions:
            return functional(
                lambda rngs: Discriminator(
                    model.size, model.channels, 2, CONDITIONS, **shape, dtype=dtype, rngs=rngs
                )
            )

        self.generator = functional(
            lambda rngs: Generator(
                model.size,
                model.channels,
                model.latent,
                CONDITIONS,
                **shape,
                dtype=model.dtype,
                rngs=rngs,
            )
        )
        self.discriminator = discriminator(model.dtype)
        self.penalised_discriminator = discriminator(jnp.float32)
        self.draw = jax.jit(self.generator.apply)
        # This is Adam with beta1 = 0, without its first moment, a copy of the gradient.
        self.optimizer = optax.inject_hyperparams(optax.rmsprop)(
            learning_rate=self._schedule("learning_rate"),
            decay=self._schedule("beta2"),
            eps=1e-8,
            eps_in_sqrt=False,
            bias_correction=True,
        )
        self.gamma = self._schedule("gamma")
        self.ema_images = self._schedule("ema_images")

    def _schedule(self, name: str) -> Callable[[int | Int[Array, ""]], Float[Array, ""]]:
        """A hyper-parameter as a function of the step."""
        train = self.config.train
        start, end = train[name]
        return lambda step: burn_in(step * train.batch_size, start, end, train.burn_in_images)

    def init(self, key: Key[Array, ""]) -> TrainState:
        key_g, key_d = jax.random.split(key)
        params = {
            "generator": self.generator.init(key_g),
            "discriminator": self.discriminator.init(key_d),
        }
        optimizer = {name: self.optimizer.init(value) for name, value in params.items()}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=params["generator"],
            optimizer=optimizer | {"augmentation": augment.init()},
        )

    @cached_property
    def pool(self) -> Pool:
        """The radiographs to train on."""
        return Pool([self.dataset], **self.config.data.draw)

    def streams(self) -> list[Stream]:
        shape = (self.square, self.square)
        return random_letterboxes(self.pool, shapes=[shape], seed=self.config.seed)

    def data_digest(self) -> str:
        return self.pool.digest()

    def learning_rate(self, step: int, steps: int) -> float:
        """Returns the learning rate after some steps, which does not depend on the run's length."""
        return float(np.asarray(self._schedule("learning_rate")(step)))

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Updates the discriminator, then the generator against the new discriminator."""
        keys = jax.random.split(key, 4)
        batch = self._prepared(batch, *keys[:2])
        augmentation: Augmentation = state.optimizer["augmentation"]
        p, gamma = augmentation["p"], self.gamma(state.step)
        networks = dict(state.params)

        def gradient_d(batch: dict[str, Array], key: Key[Array, ""]):
            loss = partial(self._discriminator_loss, networks["generator"])
            return jax.grad(loss, has_aux=True)(networks["discriminator"], batch, key, p, gamma)

        def gradient_g(batch: dict[str, Array], key: Key[Array, ""]):
            loss = partial(self._generator_loss, networks["discriminator"])
            return jax.value_and_grad(loss)(networks["generator"], batch, key, p)

        count = self.config.train.accumulate
        gradient, metrics = mean_over_microbatches(gradient_d, batch, keys[2], count)
        networks["discriminator"], optimizer_d = self._update(state, "discriminator", gradient)
        loss, gradient = mean_over_microbatches(gradient_g, batch, keys[3], count)
        networks["generator"], optimizer_g = self._update(state, "generator", gradient)
        augmentation = self._adapted(augmentation, metrics.pop("sign"))

        state = TrainState(
            step=state.step + 1,
            params=networks,
            ema=self._averaged(state, networks["generator"]),
            optimizer={
                "generator": optimizer_g,
                "discriminator": optimizer_d,
                "augmentation": augmentation,
            },
        )
        # The loop stops at a metric that is not finite, before it saves anything.
        penalties = {
            name: jnp.where(metrics[name] < RUN_AWAY, metrics[name], jnp.inf)
            for name in ("r1", "r2")
        }
        return state, {
            "generator_loss": loss,
            **metrics,
            **penalties,
            "augment_p": augmentation["p"],
            "r_t": augmentation["r_t"],
        }

    def _prepared(
        self, batch: dict[str, Array], key_d: Key[Array, ""], key_g: Key[Array, ""]
    ) -> dict[str, Array]:
        """Real images, their masks and conditions, and the latents of both updates."""
        shape = (len(batch["label"]), self.config.model.latent)
        return {
            "real": to_unit(batch["pixels"])[..., None],
            "mask": letterbox_mask(batch["box"], (self.square, self.square)),
            "condition": conditions(batch["label"], batch["box"], self.square),
            "z_d": jax.random.normal(key_d, shape),
            "z_g": jax.random.normal(key_g, shape),
        }

    def _discriminator_loss(
        self,
        generator: Params,
        discriminator: Params,
        batch: dict[str, Array],
        key: Key[Array, ""],
        p: Float[Array, ""],
        gamma: Float[Array, ""],
    ) -> tuple[Float[Array, ""], Metrics]:
        """The discriminator's loss, and means over the batch."""
        fake = self.generator.apply(generator, batch["z_d"], batch["condition"])
        model = self.penalised_discriminator
        loss, terms = discriminator_loss(
            lambda images: _logits(model, discriminator, images, batch, key, p),
            batch["real"],
            fake,
            gamma,
        )
        real_logits, fake_logits = terms["real_logits"], terms["fake_logits"]
        return loss, {
            "discriminator_loss": terms["adversarial"],
            "r1": terms["r1"],
            "r2": terms["r2"],
            "real_logit": jnp.mean(real_logits),
            "fake_logit": jnp.mean(fake_logits),
            "sign": jnp.mean(jnp.sign(real_logits - fake_logits)),
        }

    def _generator_loss(
        self,
        discriminator: Params,
        generator: Params,
        batch: dict[str, Array],
        key: Key[Array, ""],
        p: Float[Array, ""],
    ) -> Float[Array, ""]:
        fake = self.generator.apply(generator, batch["z_g"], batch["condition"])
        # Separate augmentations make the pair two draws from one distribution.
        real_logits, fake_logits = (
            _logits(self.discriminator, discriminator, images, batch, key, p)
            for images, key in zip((batch["real"], fake), jax.random.split(key), strict=True)
        )
        return generator_loss(real_logits, fake_logits)

    def _update(self, state: TrainState, name: str, gradient: Params) -> tuple[Any, Any]:
        """One step of Adam on one of the two networks: its parameters and Adam's state."""
        params = state.params[name]
        update, optimizer = self.optimizer.update(gradient, state.optimizer[name], params)
        return optax.apply_updates(params, update), optimizer

    def _adapted(self, augmentation: Augmentation, sign: Float[Array, ""]) -> Augmentation:
        train = self.config.train
        return augment.adapt(
            augmentation,
            sign,
            target=train.ada_target,
            batch_size=train.batch_size,
            images=train.ada_images,
        )

    def _averaged(self, state: TrainState, generator: Params) -> Params:
        """The generator's moving average, whose half-life is scheduled in images."""
        half_life = jnp.maximum(self.ema_images(state.step), 1e-8)
        keep = 0.5 ** (self.config.train.batch_size / half_life)
        return jax.tree.map(lambda e, p: p + keep * (e - p), state.ema, generator)

    @property
    def square(self) -> int:
        """Side of the square that radiographs are fitted into."""
        return self.config.model.size

    def generate(
        self,
        params: Params,
        requests: Mapping[int, Request],
        *,
        sample: ConfigDict,
        finished: Container[int] = (),
        progress: bool = False,
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Generates radiographs, shrunk to the model's size; see `training.task.Generator`.

        Each latent depends only on the seed and the number of the request.
        """
        missing = [number for number in requests if number not in finished]
        with Progress(
            desc="sample",
            total=len(requests),
            initial=len(requests) - len(missing),
            disable=not progress,
        ) as bar:
            for first in range(0, len(missing), sample.batch_size):
                numbers = missing[first : first + sample.batch_size]
                padded = numbers + numbers[-1:] * (sample.batch_size - len(numbers))
                images, boxes = self._draw(params, [requests[n] for n in padded], padded, sample)
                for number, image, (top, left, height, width) in zip(
                    numbers, images, boxes, strict=False
                ):
                    yield number, to_grey(image[top : top + height, left : left + width])
                bar.update(len(numbers))

    def _draw(
        self,
        params: Params,
        requests: Sequence[Request],
        numbers: Sequence[int],
        sample: ConfigDict,
    ) -> tuple[Float[np.ndarray, "batch side side"], Int[np.ndarray, "batch 4"]]:
        """The generator's squares for some requests, and the radiographs' boxes within them."""
        square, latent = (self.square, self.square), self.config.model.latent
        boxes = np.stack(
            [letterbox_box(fitted_size((r.height, r.width), square), square) for r in requests]
        )
        labels = np.array([LABELS.index(r.label) for r in requests], np.int32)
        z = np.stack(
            [
                np.random.default_rng((sample.seed, n)).standard_normal(latent, np.float32)
                for n in numbers
            ]
        )
        images = self.draw(params, z, conditions(labels, boxes, self.square))
        return np.asarray(images)[..., 0], boxes

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns samples at a fixed seed, each class in turn, with zeros around them."""
        labels = wanted_labels((), self.config.data.draw.label_shares)
        requests = draw_requests(self.dataset, per_label=4, seed=0, labels=labels)
        sample = self.config.sample.copy_and_resolve_references()
        sample.seed = 0
        radiographs = self.generate(state.ema, dict(enumerate(requests)), sample=sample)
        shape = (self.square, self.square)
        grid = np.stack([paste_centred(pixels, shape)[0] for _, pixels in radiographs])
        return {"samples": grid[..., None] / np.float32(65535)}


def _check(config: ConfigDict) -> None:
    """Raises UserError where a setting is out of range; the networks check their sizes."""
    for name in ("burn_in_images", "ada_images"):
        if config.train[name] < 1:
            raise UserError(f"config.train.{name} is {config.train[name]}; give 1 or more.")
    if config.model.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype is {config.model.dtype!r}; write float32 or bfloat16.")


def _logits(
    model: Functions,
    params: Params,
    images: Float[Array, "n side side 1"],
    batch: dict[str, Array],
    key: Key[Array, ""],
    p: Float[Array, ""],
) -> Float[Array, " n"]:
    """The logits of augmented images, one or two for each mask and condition of the batch."""
    each = len(images) // len(batch["mask"])
    masks, condition = (jnp.repeat(batch[name], each, axis=0) for name in ("mask", "condition"))
    seen = augment.augment(images * masks, masks, key, p)
    return model.apply(params, jnp.concatenate(seen, axis=-1), condition)


def conditions(
    label: Int[Array | np.ndarray, "batch"], box: Int[Array | np.ndarray, "batch 4"], side: int
) -> Float[Array, "batch conditions"]:
    """Returns class, and height and width relative to the square."""
    sizes = jnp.asarray(box)[:, 2:].astype(jnp.float32) / side
    return jnp.concatenate([jax.nn.one_hot(label, len(LABELS)), 2 * sizes - 1], axis=-1)
