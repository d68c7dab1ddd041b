"""Training the R3GAN baseline on letterboxed radiographs."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, UInt16
from ml_collections import ConfigDict
from tqdm import tqdm

from femur_jax.data.letterbox import letterbox_box, letterbox_mask, paste_centred
from femur_jax.data.loader import Pool, Stream, random_letterboxes
from femur_jax.data.pyramid import fitted_size
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import Request, draw_requests, wanted_labels
from femur_jax.errors import UserError
from femur_jax.gan import augment
from femur_jax.gan.augment import Augmentation
from femur_jax.gan.losses import burn_in, discriminator_loss, generator_loss
from femur_jax.models.functional import Functions, Params, functional
from femur_jax.models.r3gan import Discriminator, Generator
from femur_jax.parallel.rules import Rules
from femur_jax.training.accumulate import mean_over_parts
from femur_jax.training.state import TrainState
from femur_jax.training.task import Metrics

CONDITIONS = len(LABELS) + 2
"""Length of the condition: class, and the radiograph's height and width within the square."""

RUN_AWAY = 1e6
"""A penalty of a discriminator that has diverged; in sound training they stay below 10."""


class GanTask:
    """Generator and discriminator of one fixed size; sizes are handled by letterboxes.

    The generator fills the whole square. What it makes is multiplied by the letterbox's mask,
    which the discriminator sees beside the image, and cut out of the square in the end.

    The train state's `optimizer` also holds the state of the augmentation.
    """

    name = "gan"
    rules: Rules = ()

    def __init__(self, config: ConfigDict, dataset: RadiographDataset):
        """See configs/gan.py for the fields of `config`.

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
        # Adam with beta1 = 0, whose first moment would be a copy of the gradient.
        self.optimizer = optax.inject_hyperparams(optax.rmsprop)(
            learning_rate=self._schedule("learning_rate"),
            decay=self._schedule("beta2"),
            eps=1e-8,
            eps_in_sqrt=False,
            bias_correction=True,
        )
        self.gamma = self._schedule("gamma")
        self.ema_images = self._schedule("ema_images")

    def _schedule(self, name: str) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
        """Of a hyper-parameter, by step."""
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
            optimizer=optimizer | {"augmentation": augment.start()},
        )

    def streams(self) -> list[Stream]:
        pool = Pool([self.dataset], **self.config.data.draw)
        side = self.config.model.size
        return random_letterboxes(pool, shapes=[(side, side)], seed=self.config.seed)

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Updates the discriminator, then the generator against the new discriminator."""
        train, side = self.config.train, self.config.model.size
        keys = jax.random.split(key, 4)
        latents = (len(batch["label"]), self.config.model.latent)
        batch = {
            "real": batch["pixels"].astype(jnp.float32)[..., None] / 32767.5 - 1,
            "mask": letterbox_mask(batch["box"], (side, side)),
            "condition": conditions(batch["label"], batch["box"], side),
            "z_d": jax.random.normal(keys[0], latents),
            "z_g": jax.random.normal(keys[1], latents),
        }
        augmentation: Augmentation = state.optimizer["augmentation"]
        p = augmentation["p"]

        def part_d(batch: dict[str, Array], key: Key[Array, ""]):
            return self._gradient_d(state.params, batch, key, p, state.step)

        gradient_d, found = mean_over_parts(part_d, batch, keys[2], train.accumulate)
        discriminator, optimizer_d = self._update(state, "discriminator", gradient_d)
        params = state.params | {"discriminator": discriminator}

        def part_g(batch: dict[str, Array], key: Key[Array, ""]):
            return self._gradient_g(params, batch, key, p)

        loss, gradient_g = mean_over_parts(part_g, batch, keys[3], train.accumulate)
        generator, optimizer_g = self._update(state, "generator", gradient_g)
        adapted = augment.adapt(
            augmentation,
            found.pop("sign"),
            target=train.ada_target,
            batch_size=train.batch_size,
            images=train.ada_images,
        )
        keep = 0.5 ** (train.batch_size / jnp.maximum(self.ema_images(state.step), 1e-8))
        state = TrainState(
            step=state.step + 1,
            params=params | {"generator": generator},
            ema=jax.tree.map(lambda e, p: p + keep * (e - p), state.ema, generator),
            optimizer={
                "generator": optimizer_g,
                "discriminator": optimizer_d,
                "augmentation": adapted,
            },
        )
        # The loop stops at a metric that is not finite, before it saves anything.
        penalties = {
            name: jnp.where(found[name] < RUN_AWAY, found[name], jnp.inf) for name in ("r1", "r2")
        }
        return state, {
            "generator_loss": loss,
            **found,
            **penalties,
            "augment_p": adapted["p"],
            "r_t": adapted["r_t"],
        }

    def _gradient_d(
        self,
        params: Params,
        batch: dict[str, Array],
        key: Key[Array, ""],
        p: Float[Array, ""],
        step: Int[Array, ""],
    ) -> tuple[Params, Metrics]:
        """Gradient of the discriminator's loss, and means over the batch."""
        fake = self.generator.apply(params["generator"], batch["z_d"], batch["condition"])

        def loss(discriminator: Params, penalty_weight: int):
            model = self.penalised_discriminator if penalty_weight else self.discriminator
            return discriminator_loss(
                lambda images: _logits(model, discriminator, images, batch, key, p),
                batch["real"],
                fake,
                self.gamma(step),
                penalty_weight=penalty_weight,
            )

        gradient, found = self._every(step, jax.grad(loss, has_aux=True), params["discriminator"])
        real, fake = found["real_logits"], found["fake_logits"]
        return gradient, {
            "discriminator_loss": found["adversarial"],
            "r1": found["r1"],
            "r2": found["r2"],
            "real_logit": jnp.mean(real),
            "fake_logit": jnp.mean(fake),
            "sign": jnp.mean(jnp.sign(real - fake)),
        }

    def _gradient_g(
        self, params: Params, batch: dict[str, Array], key: Key[Array, ""], p: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Params]:
        """The generator's loss and its gradient."""

        def loss(generator: Params):
            fake = self.generator.apply(generator, batch["z_g"], batch["condition"])
            # Augmented apart, as two draws from one distribution.
            real_logits, fake_logits = (
                _logits(self.discriminator, params["discriminator"], images, batch, key, p)
                for images, key in zip((batch["real"], fake), jax.random.split(key), strict=True)
            )
            return generator_loss(real_logits, fake_logits)

        return jax.value_and_grad(loss)(params["generator"])

    def _every(self, step: Int[Array, ""], loss: Callable, params: Params) -> Any:
        """A loss with penalties at every k-th step, without between."""
        k = self.config.train.penalty_interval
        if k == 1:
            return loss(params, 1)
        return jax.lax.cond(step % k == 0, lambda p: loss(p, k), lambda p: loss(p, 0), params)

    def _update(self, state: TrainState, name: str, gradient: Params) -> tuple[Any, Any]:
        """One step of Adam on one of the two networks: its parameters and Adam's state."""
        params = state.params[name]
        update, optimizer = self.optimizer.update(gradient, state.optimizer[name], params)
        return optax.apply_updates(params, update), optimizer

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

        Each latent depends on the seed and the request's number alone.
        """
        missing = [number for number in requests if number not in finished]
        with tqdm(
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
                    cut = np.clip(image[top : top + height, left : left + width], -1, 1)
                    yield number, np.round((cut + 1) * 32767.5).astype(np.uint16)
                bar.update(len(numbers))

    def _draw(
        self,
        params: Params,
        requests: Sequence[Request],
        numbers: Sequence[int],
        sample: ConfigDict,
    ) -> tuple[Float[np.ndarray, "batch side side"], Int[np.ndarray, "batch 4"]]:
        """The generator's squares for some requests, and the radiographs' boxes in them."""
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
        """Some samples at a fixed seed, each class in turn, with zeros around them."""
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
    for name in ("penalty_interval", "burn_in_images", "ada_images"):
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
    """Of augmented images under this batch's masks and conditions, each of them once or twice."""
    each = len(images) // len(batch["mask"])
    masks, condition = (jnp.repeat(batch[name], each, axis=0) for name in ("mask", "condition"))
    seen = augment.augment(images * masks, masks, key, p)
    return model.apply(params, jnp.concatenate(seen, axis=-1), condition)


def conditions(
    label: Int[Array | np.ndarray, "batch"], box: Int[Array | np.ndarray, "batch 4"], side: int
) -> Float[Array, "batch conditions"]:
    """Class, and height and width relative to the square."""
    sizes = jnp.asarray(box)[:, 2:].astype(jnp.float32) / side
    return jnp.concatenate([jax.nn.one_hot(label, len(LABELS)), 2 * sizes - 1], axis=-1)
