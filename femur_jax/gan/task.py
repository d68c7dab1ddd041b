"""Training the R3GAN baseline on letterboxed radiographs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt16
from tqdm import tqdm

from femur_jax.config import Config
from femur_jax.data.letterbox import letterbox_box, letterbox_mask, place
from femur_jax.data.loader import Pool, Stream, random_letterboxes
from femur_jax.data.pyramid import fitted_size
from femur_jax.data.radiograph import LABELS
from femur_jax.data.requests import Request, draw_requests
from femur_jax.data.shards import RadiographDataset
from femur_jax.gan.losses import burn_in, discriminator_loss, generator_loss
from femur_jax.models.functional import Params, functional
from femur_jax.models.r3gan import Discriminator, Generator
from femur_jax.parallel.rules import Rules
from femur_jax.training.accumulate import mean_over_parts
from femur_jax.training.state import TrainState, update_ema

CONDITIONS = len(LABELS) + 2
"""Length of the condition: class, and the radiograph's height and width within the square."""


class GanTask:
    """Generator and discriminator of one fixed size; sizes are handled by letterboxes.

    The generator fills the whole square. What it makes is multiplied by the letterbox's mask,
    which the discriminator sees beside the image, and cut out of the square in the end.
    """

    name = "gan"
    rules: Rules = ()

    def __init__(self, config: Config, dataset: RadiographDataset):
        """See configs/gan.py for the fields of `config`."""
        self.config = config
        self.dataset = dataset
        model = config.model
        self.generator = functional(
            lambda rngs: Generator(
                model.size, model.channels, model.latent, CONDITIONS, blocks=model.blocks, rngs=rngs
            )
        )
        self.discriminator = functional(
            lambda rngs: Discriminator(
                model.size, model.channels, 2, CONDITIONS, blocks=model.blocks, rngs=rngs
            )
        )

        def schedule(name: str):
            start, end = config.train[name]
            return lambda step: burn_in(step, start, end, config.train.burn_in_steps)

        self.gamma = schedule("gamma")
        self.optimizer = optax.inject_hyperparams(optax.adam)(
            learning_rate=schedule("learning_rate"), b1=0.0, b2=schedule("beta2")
        )

    def init(self, key: Key[Array, ""]) -> TrainState:
        key_g, key_d = jax.random.split(key)
        params = {
            "generator": self.generator.init(key_g),
            "discriminator": self.discriminator.init(key_d),
        }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=params["generator"],
            optimizer={name: self.optimizer.init(value) for name, value in params.items()},
        )

    def streams(self) -> list[Stream]:
        pool = Pool([self.dataset], **self.config.data.draw)
        side = self.config.model.size
        return random_letterboxes(pool, shapes=[(side, side)], seed=self.config.seed)

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        """Updates the discriminator, then the generator against the new discriminator."""
        keys = jax.random.split(key, 2)

        def loss_d(discriminator: Params, batch: dict[str, Array], key: Key[Array, ""]):
            real, mask, condition = self._inputs(batch)
            made = self._fake(state.params["generator"], key, mask, condition)
            discriminate = self._discriminate(discriminator, mask, condition)
            return discriminator_loss(discriminate, real, made, self.gamma(state.step))

        discriminator, optimizer_d, metrics_d = self._update(
            state, "discriminator", loss_d, batch, keys[0]
        )

        def loss_g(generator: Params, batch: dict[str, Array], key: Key[Array, ""]):
            real, mask, condition = self._inputs(batch)
            made = self._fake(generator, key, mask, condition)
            return generator_loss(self._discriminate(discriminator, mask, condition), real, made)

        generator, optimizer_g, metrics_g = self._update(state, "generator", loss_g, batch, keys[1])
        state = TrainState(
            step=state.step + 1,
            params={"generator": generator, "discriminator": discriminator},
            ema=update_ema(state.ema, generator, state.step, self.config.train.ema_decay),
            optimizer={"generator": optimizer_g, "discriminator": optimizer_d},
        )
        return state, metrics_d | metrics_g

    def _inputs(self, batch: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Real images in [-1, 1], masks, and conditions of a batch of `Letterbox`."""
        side = self.config.model.size
        mask = letterbox_mask(batch["box"], (side, side))
        real = (batch["pixels"].astype(jnp.float32)[..., None] / 32767.5 - 1) * mask
        return real, mask, conditions(batch["label"], batch["box"], side)

    def _fake(self, generator: Params, key: Key[Array, ""], mask: Array, condition: Array) -> Array:
        z = jax.random.normal(key, (len(mask), self.config.model.latent))
        return self.generator.apply(generator, z, condition) * mask

    def _discriminate(self, discriminator: Params, mask: Array, condition: Array) -> Callable:
        return lambda images: self.discriminator.apply(
            discriminator, jnp.concatenate([images, mask], axis=-1), condition
        )

    def _update(
        self,
        state: TrainState,
        name: str,
        loss: Callable,
        batch: dict[str, Array],
        key: Key[Array, ""],
    ) -> Any:
        """One step of Adam on one of the two networks: its parameters, Adam's state, metrics."""

        def part(batch: dict[str, Array], key: Key[Array, ""]):
            return jax.grad(loss, has_aux=True)(state.params[name], batch, key)

        gradient, metrics = mean_over_parts(part, batch, key, self.config.train.accumulate)
        update, optimizer = self.optimizer.update(
            gradient, state.optimizer[name], state.params[name]
        )
        return optax.apply_updates(state.params[name], update), optimizer, metrics

    def generate(
        self, params: Params, requests: Sequence[Request], *, seed: int, progress: bool = False
    ) -> Iterator[UInt16[np.ndarray, "height width"]]:
        """Makes the requested radiographs, shrunk to the model's size where they are larger.

        Each latent depends on the seed and the request's position alone.
        """
        side, batch_size = self.config.model.size, self.config.sample.batch_size
        generator = jax.jit(self.generator.apply)
        with tqdm(desc="sample", total=len(requests), disable=not progress) as bar:
            for first in range(0, len(requests), batch_size):
                batch = requests[first : first + batch_size]
                padded = [batch[min(n, len(batch) - 1)] for n in range(batch_size)]
                square = (side, side)
                sizes = [fitted_size((r.height, r.width), square) for r in padded]
                boxes = np.stack([letterbox_box(size, square) for size in sizes])
                labels = np.array([LABELS.index(r.label) for r in padded], np.int32)
                z = np.stack(
                    [
                        np.random.default_rng((seed, first + n)).standard_normal(
                            self.config.model.latent, np.float32
                        )
                        for n in range(batch_size)
                    ]
                )
                made = generator(params, z, conditions(labels, boxes, side))
                for image, (top, left, height, width) in zip(
                    np.asarray(made)[: len(batch), :, :, 0], boxes, strict=False
                ):
                    cut = np.clip(image[top : top + height, left : left + width], -1, 1)
                    yield np.round((cut + 1) * 32767.5).astype(np.uint16)
                bar.update(len(batch))

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Some samples at a fixed seed, each class in turn, with zeros around them."""
        requests = draw_requests(self.dataset, per_label=4, seed=0)
        radiographs = self.generate(state.ema, requests, seed=0)
        side = self.config.model.size
        grid = np.stack([place(pixels, (side, side))[0] for pixels in radiographs])
        return {"samples": grid[..., None] / np.float32(65535)}


def conditions(
    label: Int[Array | np.ndarray, "batch"], box: Int[Array | np.ndarray, "batch 4"], side: int
) -> Float[Array, "batch conditions"]:
    """Class, and height and width relative to the square."""
    sizes = jnp.asarray(box)[:, 2:].astype(jnp.float32) / side
    return jnp.concatenate([jax.nn.one_hot(label, len(LABELS)), 2 * sizes - 1], axis=-1)
