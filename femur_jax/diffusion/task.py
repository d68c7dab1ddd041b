"""Training the patch denoiser."""

from collections.abc import Container, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, UInt16

from femur_jax.config import Config
from femur_jax.data.letterbox import place
from femur_jax.data.loader import Pool, Stream, random_patches
from femur_jax.data.pyramid import level_sizes
from femur_jax.data.requests import Request, draw_requests, wanted_labels
from femur_jax.data.shards import RadiographDataset
from femur_jax.diffusion import edm
from femur_jax.diffusion.generation import Model, tile_denoiser
from femur_jax.diffusion.patches import (
    CHANNELS,
    CONDITIONS,
    NO_LABEL,
    Place,
    conditions,
    mask_and_coordinates,
    to_unit,
    wide_mask,
)
from femur_jax.diffusion.sampler import Job, Sampler
from femur_jax.models.functional import Params, functional
from femur_jax.models.unet import UNet
from femur_jax.parallel.rules import Rules
from femur_jax.training.schedule import warm_up_and_decay
from femur_jax.training.state import TrainState, advance, begin


class DiffusionTask:
    """One denoiser for the patches of every level."""

    name = "diffusion"
    rules: Rules = ()

    def __init__(self, config: Config, dataset: RadiographDataset):
        """See configs/patch_diffusion.py for the fields of `config`."""
        self.config = config
        self.dataset = dataset
        self.model = functional(
            lambda rngs: UNet(
                in_channels=CHANNELS + config.data.wide_context,
                conditions=CONDITIONS,
                **config.model,
                rngs=rngs,
            )
        )
        learning_rate = warm_up_and_decay(config.train, last=0.1)
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(learning_rate, b2=0.99)
        )

    def init(self, key: Key[Array, ""]) -> TrainState:
        return begin(self.model.init(key), self.optimizer)

    def streams(self) -> list[Stream]:
        data = self.config.data
        pool = Pool([self.dataset], **data.draw)
        return random_patches(
            pool,
            level_weights=data.level_weights,
            seed=self.config.seed,
            mirror=data.mirror,
            wide=data.wide_context,
        )

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        def mean_loss(params: Params):
            return self.losses(params, batch, key).mean()

        loss, gradient = jax.value_and_grad(mean_loss)(state.params)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        decay = self.config.train.ema_decay
        return advance(state, gradient, self.optimizer, ema_decay=decay), metrics

    def losses(
        self, params: Params, batch: dict[str, Array], key: Key[Array, ""]
    ) -> Float[Array, "batch"]:
        """The loss of each patch of a batch of `loader.Patch`."""
        config = self.config.diffusion
        key_label, key_sigma, key_context, key_loss = jax.random.split(key, 4)
        count = batch["label"].shape[0]
        dropped = jax.random.bernoulli(key_label, config.label_dropout, (count,))
        place = Place(**{name: batch[name] for name in Place._fields})
        place = place._replace(label=jnp.where(dropped, NO_LABEL, place.label))
        # The context is corrupted as its own sampling will leave it, and the network is told.
        low, high = jnp.log(jnp.asarray(config.context_sigma))
        context_sigma = jnp.exp(jax.random.uniform(key_sigma, (count,), minval=low, maxval=high))
        noise = jax.random.normal(key_context, batch["context"].shape)
        context = to_unit(batch["context"]) + context_sigma[:, None, None, None] * noise
        mask, coordinates = mask_and_coordinates(place, batch["pixels"].shape[1])
        F = self.network(params, place, context, context_sigma, mask, coordinates)
        y = to_unit(batch["pixels"])[..., None] * mask
        return edm.loss(
            F,
            y,
            mask,
            key_loss,
            P_mean=config.P_mean,
            P_std=config.P_std,
            sigma_data=config.sigma_data,
        )

    def network(
        self,
        params: Params,
        place: Place,
        context: Float[Array, "batch patch patch kinds"],
        context_sigma: Float[Array, "batch"],
        mask: Float[Array, "batch patch patch 1"],
        coordinates: Float[Array, "batch patch patch 2"],
    ) -> edm.Network:
        """Binds everything but the noisy patch and its noise level to the U-Net.

        Args:
            params: Of the U-Net.
            place: Where the patches lie.
            context: The coarser level's crop in -1..1, interpolated to this level, and with
                `config.data.wide_context` the window of `loader.wide_context`; both with noise.
                What lies beyond the border, and all of level 0, is set to zero here.
            context_sigma: Standard deviation of that noise.
            mask: From `mask_and_coordinates`.
            coordinates: From `mask_and_coordinates`.
        """
        finer = (place.level > 0)[:, None, None, None]
        shown = mask
        if self.config.data.wide_context:
            shown = jnp.concatenate([mask, wide_mask(place, mask.shape[1])], axis=-1)
        context = jnp.where(finer, context, 0) * shown
        side = jnp.concatenate([context, mask, coordinates], axis=-1)
        vector = conditions(place, jnp.where(place.level > 0, context_sigma, 0))

        def F(x: Float[Array, "batch patch patch 1"], c_noise: Float[Array, "batch"]):
            return self.model.apply(
                params, jnp.concatenate([x * mask, side], axis=-1), c_noise, vector
            )

        return F

    def denoise(
        self,
        params: Params,
        x: Float[Array, "batch patch patch 1"],
        sigma: Float[Array, "batch"],
        context: Float[Array, "batch patch patch kinds"],
        context_sigma: Float[Array, "batch"],
        place: Place,
    ) -> Float[Array, "batch patch patch 1"]:
        """D(x; sigma) of patches, 0 beyond the border; see `generation.Denoise`."""
        mask, coordinates = mask_and_coordinates(place, x.shape[1])
        F = self.network(params, place, context, context_sigma, mask, coordinates)
        return mask * edm.denoise(F, x, sigma, sigma_data=self.config.diffusion.sigma_data)

    def generate(
        self,
        params: Params,
        requests: Mapping[int, Request],
        *,
        config: Config,
        weak: Model | None = None,
        levels: int | None = None,
        finished: Container[int] = (),
        progress: bool = False,
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Makes radiographs and gives each with its number, as they are finished.

        Args:
            params: One of `TrainState.ema`.
            requests: What to make, by number.
            config: The config's `sample`.
            weak: For autoguidance, see `tile_denoiser`.
            levels: Ends after so many levels, with smaller radiographs than requested.
            finished: See `Sampler.sample`.
            progress: Shows a bar.
        """
        patch, batch_size = self.dataset.patch, config.tile_batch * jax.local_device_count()
        denoise = tile_denoiser(Model(self.denoise, params), guidance=config.guidance, weak=weak)
        wide = self.config.data.wide_context
        sampler = Sampler(denoise, config, patch=patch, batch_size=batch_size, wide=wide)
        jobs = [
            Job(number, request, level_sizes(request.height, request.width, patch)[:levels])
            for number, request in requests.items()
        ]
        return sampler.sample(jobs, finished=finished, progress=progress)

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Samples of the two coarsest levels at a fixed seed, each class in turn, in squares."""
        labels = wanted_labels((), self.config.data.draw.label_shares)
        requests = draw_requests(self.dataset, per_label=4, seed=0, labels=labels)
        config = self.config.sample.copy_and_resolve_references()
        config.update(seed=0, tile_batch=1 + len(requests) // jax.local_device_count())
        made = dict(self.generate(state.ema, dict(enumerate(requests)), config=config, levels=2))
        side = max(max(pixels.shape) for pixels in made.values())
        grid = np.stack([place(made[n], (side, side))[0] for n in range(len(requests))])
        return {"samples": grid[..., None] / np.float32(65535)}
