"""Training the patch denoiser."""

from collections.abc import Container, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key, UInt16
from ml_collections import ConfigDict

from femur_jax.data.letterbox import paste_centred
from femur_jax.data.loader import Pool, Stream
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.strategies import check, known_sizes, patch_sides, patch_streams
from femur_jax.data.synthetic import Request, draw_requests, wanted_labels
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
from femur_jax.errors import UserError
from femur_jax.models.functional import Params, functional
from femur_jax.models.unet import UNet
from femur_jax.parallel.rules import Rules
from femur_jax.training import ema
from femur_jax.training.accumulate import mean_over_parts
from femur_jax.training.schedule import warm_up_and_decay
from femur_jax.training.state import TrainState, advance, begin
from femur_jax.training.task import Metrics

_QUARTILES = (-0.6745, 0.0, 0.6745)
"""Of a standard normal variable."""


class DiffusionTask:
    """One denoiser for the patches of every level."""

    name = "diffusion"
    square = None
    # Over the mesh's model axis, a block's first convolution and its attention's queries, keys and
    # values are split by output, what follows them by input, so that one sum ends each.
    rules: Rules = (
        (r"conv1/kernel$", P(None, None, "fsdp", "model")),
        (r"conv2/kernel$", P(None, None, "model", "fsdp")),
        (r"(qkv|modulation)/kernel$", P("fsdp", "model")),
        (r"attention/out/kernel$", P("model", "fsdp")),
        (r"(conv1|qkv|modulation)/bias$|norm2/(scale|bias)$", P("model")),
    )

    def __init__(self, config: ConfigDict, dataset: RadiographDataset):
        """See configs/patch_diffusion.py for the fields of `config`.

        Raises:
            UserError: There is no such strategy, or no U-Net of this form for these patches.
        """
        self.config = config
        self.dataset = dataset
        check(config.data)
        _check_model(config.model, min(patch_sides(config.data, dataset.patch)))
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
        params = self.model.init(key)
        return begin(params, ema.begin(params, self.config.train.ema_widths), self.optimizer)

    def streams(self) -> list[Stream]:
        pool = Pool([self.dataset], **self.config.data.draw)
        return patch_streams(pool, self.config.data, seed=self.config.seed)

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        def part(batch: dict[str, Array], key: Key[Array, ""]):
            def objective(params: Params):
                losses, sigma = self.losses(params, batch, key)
                if not self.config.model.uncertainty:
                    return losses.mean(), (losses, sigma)
                u = self.model.apply(params, jnp.log(sigma) / 4, method="log_variance")
                return edm.uncertainty_loss(losses, u).mean(), (losses, sigma)

            gradient, (losses, sigma) = jax.grad(objective, has_aux=True)(state.params)
            groups = self._losses_by_group(losses, sigma, batch["level"])
            return gradient, {"loss": losses.mean(), **groups}

        gradient, metrics = mean_over_parts(part, batch, key, self.config.train.accumulate)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return advance(state, gradient, self.optimizer, ema.update), metrics

    def losses(
        self, params: Params, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """The loss of each patch of a batch of `loader.Patch`, and its noise level."""
        config = self.config.diffusion
        keys = jax.random.split(key, 6)
        count, patch = batch["pixels"].shape[:2]
        dropped = jax.random.bernoulli(keys[0], config.label_dropout, (count,))
        place = Place(**{name: batch[name] for name in Place._fields})
        place = place._replace(label=jnp.where(dropped, NO_LABEL, place.label))
        # The context is corrupted as its own sampling will leave it, and the network is told.
        low, high = jnp.log(jnp.asarray(config.context_sigma))
        context_sigma = jnp.exp(jax.random.uniform(keys[1], (count,), minval=low, maxval=high))
        noise = jax.random.normal(keys[2], batch["context"].shape)
        context = to_unit(batch["context"]) + context_sigma[:, None, None, None] * noise
        mask, coordinates = mask_and_coordinates(place, patch)
        F = self.network(params, place, context, context_sigma, mask, coordinates, keys[3])
        sigma = edm.draw_sigma(keys[4], count, P_mean=config.P_mean, P_std=config.P_std)
        # Nothing but zeros beyond the border, as in sampling.
        y = to_unit(batch["pixels"])[..., None] * mask
        n = sigma[:, None, None, None] * jax.random.normal(keys[5], y.shape) * mask
        return edm.loss(F, y, n, sigma, mask, sigma_data=config.sigma_data), sigma

    def _losses_by_group(
        self,
        losses: Float[Array, "batch"],
        sigma: Float[Array, "batch"],
        level: Int[Array, "batch"],
    ) -> Metrics:
        """Sum and count of the losses of each level, and of each quarter of the noise levels."""
        config = self.config.diffusion
        z = (jnp.log(sigma) - config.P_mean) / config.P_std
        quarter = jnp.searchsorted(jnp.asarray(_QUARTILES), z)
        levels = self.dataset.levels if self.config.data.strategy == "pyramid" else 1
        groups = {f"loss_level_{n}": level == n for n in range(levels)}
        groups |= {f"loss_sigma_{n + 1}": quarter == n for n in range(4)}
        return {
            name: jnp.stack([jnp.where(own, losses, 0).sum(), own.sum()])
            for name, own in groups.items()
        }

    def network(
        self,
        params: Params,
        place: Place,
        context: Float[Array, "batch patch patch kinds"],
        context_sigma: Float[Array, "batch"],
        mask: Float[Array, "batch patch patch 1"],
        coordinates: Float[Array, "batch patch patch 2"],
        key: Key[Array, ""] | None = None,
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
            key: Of dropout, in training.
        """
        finer = (place.level > 0)[:, None, None, None]
        shown = mask
        if self.config.data.wide_context:
            shown = jnp.concatenate([mask, wide_mask(place, mask.shape[1])], axis=-1)
        context = jnp.where(finer, context, 0) * shown
        side = jnp.concatenate([context, mask, coordinates], axis=-1)
        vector = conditions(place, jnp.where(place.level > 0, context_sigma, 0))

        def F(x: Float[Array, "batch patch patch 1"], c_noise: Float[Array, "batch"]):
            x = jnp.concatenate([x, side], axis=-1)
            return self.model.apply(params, x, c_noise, vector, key)

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
        sample: ConfigDict,
        finished: Container[int] = (),
        progress: bool = False,
        weak: Model | None = None,
        levels: int | None = None,
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Generates radiographs; see `training.task.Generator`.

        Args:
            params: One of the averages of `TrainState.ema`.
            requests: The radiographs to generate, by number.
            sample: The config's `sample`.
            finished: Numbers of the radiographs that exist, see `Sampler.sample`.
            progress: Whether to show a progress bar.
            weak: A worse model for autoguidance, see `tile_denoiser`.
            levels: Number of levels after which to stop, with smaller radiographs than requested.
        """
        patch, batch_size = self.dataset.patch, sample.tile_batch * jax.local_device_count()
        denoise = tile_denoiser(Model(self.denoise, params), guidance=sample.guidance, weak=weak)
        wide = self.config.data.wide_context
        sampler = Sampler(denoise, sample, patch=patch, batch_size=batch_size, wide=wide)
        strategy = self.config.data.strategy
        jobs = [
            Job(n, r, known_sizes(strategy, r.height, r.width, patch)[:levels])
            for n, r in requests.items()
        ]
        return sampler.sample(jobs, finished=finished, progress=progress)

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Samples of the two coarsest levels at a fixed seed, each class in turn, in squares."""
        labels = wanted_labels((), self.config.data.draw.label_shares)
        requests = draw_requests(self.dataset, per_label=4, seed=0, labels=labels)
        sample = self.config.sample.copy_and_resolve_references()
        sample.update(seed=0, tile_batch=1 + len(requests) // jax.local_device_count())
        params = state.ema[str(self.config.train.ema_widths[0])]
        made = dict(self.generate(params, dict(enumerate(requests)), sample=sample, levels=2))
        side = max(max(pixels.shape) for pixels in made.values())
        grid = np.stack([paste_centred(made[n], (side, side))[0] for n in range(len(requests))])
        return {"samples": grid[..., None] / np.float32(65535)}


def _check_model(model: ConfigDict, side: int) -> None:
    """Refuses a U-Net that cannot be.

    Args:
        model: `config.model`.
        side: Of the smallest patches.

    Raises:
        UserError: See above.
    """
    halvings = len(model.multipliers) - 1
    if side % 2**halvings:
        raise UserError(
            f"Patches of {side} pixels cannot be halved {halvings} times; shorten "
            "config.model.multipliers, or make the dataset with larger patches."
        )
    if len(model.attention) != len(model.multipliers):
        raise UserError(
            "config.model.attention and config.model.multipliers have different lengths; give "
            "both one entry for each resolution."
        )
    if model.channels % 8:
        raise UserError(
            f"config.model.channels is {model.channels}; make it a multiple of 8, the size of the "
            "groups that are normalised together."
        )
    if model.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype is {model.dtype!r}; write float32 or bfloat16.")
    for multiplier, attends in zip(model.multipliers, model.attention, strict=True):
        width = model.channels * multiplier
        if attends and width > model.head_channels and width % model.head_channels:
            raise UserError(
                f"Heads of {model.head_channels} channels do not divide a width of {width}; "
                "change config.model.head_channels."
            )
