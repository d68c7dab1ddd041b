"""Training the patch denoiser."""

from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from femur_jax.data.letterbox import paste_centred
from femur_jax.data.loader import Pool, Stream
from femur_jax.data.radiograph import to_unit
from femur_jax.data.shards import RadiographDataset
from femur_jax.data.strategies import patch_sides, patch_streams
from femur_jax.data.synthetic import JITTER, draw_requests, wanted_labels
from femur_jax.diffusion import edm
from femur_jax.diffusion.conditioning import NO_LABEL, Conditioning
from femur_jax.diffusion.denoiser import Denoiser
from femur_jax.diffusion.sampler import at_level
from femur_jax.models.functional import Params
from femur_jax.parallel.rules import Rules
from femur_jax.training import ema
from femur_jax.training.accumulate import mean_over_microbatches
from femur_jax.training.optimizers import clipped_optimizer
from femur_jax.training.schedule import warm_up_and_decay
from femur_jax.training.state import TrainState, init_state, update_state
from femur_jax.training.task import Metrics

_MEMORY = {True: 10.0, False: 14.5}
"""Bytes of temporary memory per byte of the blocks' outputs, by `model.remat`, rounded up."""

_QUARTILES = (-0.6745, 0.0, 0.6745)
"""The quartiles of a standard normal variable."""


_NOT_ORTHOGONAL = ("head/kernel", "uncertainty/kernel")
"""The matrices of one output, whose orthogonal form would be their direction alone."""


class DiffusionTask(Denoiser):
    """The training of a denoiser."""

    name = "diffusion"
    square = None
    # Over the mesh's model axis, a block's first convolution and the attention's queries, keys and
    # values are split by output, and the layers after them by input, so that each needs one sum.
    rules: Rules = (
        (r"conv1/kernel$", P(None, None, "fsdp", "model")),
        (r"conv2/kernel$", P(None, None, "model", "fsdp")),
        (r"(qkv|modulation)/kernel$", P("fsdp", "model")),
        (r"attention/out/kernel$", P("model", "fsdp")),
        (r"(conv1|qkv|modulation)/bias$|norm2/(scale|bias)$", P("model")),
    )

    def __init__(self, config: ConfigDict, dataset: RadiographDataset):
        """Builds the model; see configs/patch_diffusion.py for the fields of `config`.

        Raises:
            UserError: The strategy is unknown, or the U-Net does not fit the patches.
        """
        super().__init__(config, patch=dataset.patch, levels=dataset.levels)
        self.dataset = dataset
        self.optimizer = clipped_optimizer(
            config.train.optimizer, self._schedule(), by_adam=_follows_adam
        )

    @property
    def sample_bytes(self) -> int:
        """Memory of a GPU for each patch of a microbatch, proportional to the blocks' outputs.

        The factors are those of programs that XLA compiled for GPUs (`femur plan_gpu`) of `base`
        and `large`: temporary memory, over the size of the outputs of all blocks of one direction.
        """
        model, side = self.config.model, max(patch_sides(self.config.data, self.patch))
        outputs = sum(
            model.blocks * model.channels * multiplier * (side >> n) ** 2
            for n, multiplier in enumerate(model.multipliers)
        )
        return int(_MEMORY[model.remat] * outputs * jnp.dtype(model.dtype).itemsize)

    def _schedule(self, steps: int | None = None) -> optax.Schedule:
        return warm_up_and_decay(self.config.train, last=0.1, steps=steps)

    def learning_rate(self, step: int, steps: int) -> float:
        return float(np.asarray(self._schedule(steps)(step)))

    @cached_property
    def pool(self) -> Pool:
        """The radiographs to train on."""
        return Pool([self.dataset], **self.config.data.draw)

    def init(self, key: Key[Array, ""]) -> TrainState:
        params = self.model.init(key)
        averages = ema.init(params, self.config.train.ema_widths)
        return init_state(params, averages, self.optimizer)

    def streams(self) -> list[Stream]:
        return patch_streams(self.pool, self.config.data, seed=self.config.seed)

    def data_digest(self) -> str:
        return self.pool.digest()

    def step(
        self, state: TrainState, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        def gradient(batch: dict[str, Array], key: Key[Array, ""]):
            return jax.grad(self.loss, has_aux=True)(state.params, batch, key)

        microbatches = self.config.train.accumulate
        gradient, metrics = mean_over_microbatches(gradient, batch, key, microbatches)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return update_state(state, gradient, self.optimizer, ema.update), metrics

    def loss(
        self, params: Params, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss of a batch of `loader.Patch`, and the metrics to log."""
        losses, sigma, conditioning = self.losses(params, batch, key)
        metrics = {"loss": losses.mean(), **self._losses_by_group(losses, sigma, batch["level"])}
        if not self.config.model.uncertainty:
            return losses.mean(), metrics
        vector = conditioning.vector(self.levels)
        u = self.model.apply(params, jnp.log(sigma) / 4, vector, method="log_variance")
        return edm.uncertainty_loss(losses, u).mean(), metrics

    def losses(
        self, params: Params, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"], Conditioning]:
        """Returns loss, noise level and conditioning of each patch of a batch of `loader.Patch`."""
        config = self.config.diffusion
        keys = jax.random.split(key, 7)
        conditioning = self._training_conditioning(batch, *keys[:4])
        mask = conditioning.mask()
        F = self.network(params, conditioning, keys[4])
        P_mean, P_std = self._noise_levels(batch["level"])
        sigma = edm.draw_sigma(keys[5], P_mean=P_mean, P_std=P_std)
        # As in sampling, there are only zeros outside of the radiograph.
        y = to_unit(batch["pixels"])[..., None] * mask
        n = sigma[:, None, None, None] * jax.random.normal(keys[6], y.shape) * mask
        return edm.loss(F, y, n, sigma, mask, sigma_data=config.sigma_data), sigma, conditioning

    def _training_conditioning(
        self,
        batch: dict[str, Array],
        label_key: Key[Array, ""],
        sigma_key: Key[Array, ""],
        noise_key: Key[Array, ""],
        jitter_key: Key[Array, ""],
    ) -> Conditioning:
        """Drops some labels, and corrupts the context as its own sampling will leave it.

        Sizes and spacings differ a little from the true ones, which are often a radiograph's own
        and would be a key to it.
        """
        config, count = self.config.diffusion, len(batch["label"])
        dropped = jax.random.bernoulli(label_key, config.label_dropout, (count,))
        low, high = jnp.log(jnp.asarray(config.context_sigma))
        sigma = jnp.exp(jax.random.uniform(sigma_key, (count,), minval=low, maxval=high))
        noise = jax.random.normal(noise_key, batch["context"].shape)
        jitter = jnp.exp(JITTER * jax.random.normal(jitter_key, (count, 3)))
        fields = {name: batch[name] for name in Conditioning._fields if name in batch} | {
            "context": to_unit(batch["context"]) + sigma[:, None, None, None] * noise,
            "context_sigma": sigma,
            "label": jnp.where(dropped, NO_LABEL, batch["label"]),
            "size": jnp.round(batch["size"] * jitter[:, :2]).astype(jnp.int32),
            "spacing_mm": batch["spacing_mm"] * jitter[:, 2],
        }
        return Conditioning(**fields)

    def _noise_levels(
        self, level: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """The mean and the standard deviation of the logarithm of training's noise levels."""
        config = self.config.diffusion
        by_level = (
            jnp.asarray([at_level(values, n) for n in range(self.levels)], jnp.float32)
            for values in (config.P_mean, config.P_std)
        )
        P_mean, P_std = (values[level] for values in by_level)
        return P_mean, P_std

    def _losses_by_group(
        self,
        losses: Float[Array, "batch"],
        sigma: Float[Array, "batch"],
        level: Int[Array, "batch"],
    ) -> Metrics:
        """Sums and counts of the losses by level, and by quarter of the noise levels."""
        P_mean, P_std = self._noise_levels(level)
        z = (jnp.log(sigma) - P_mean) / P_std
        quarter = jnp.searchsorted(jnp.asarray(_QUARTILES), z)
        groups = {f"loss_level_{n}": level == n for n in range(self.levels)}
        groups |= {f"loss_sigma_{n + 1}": quarter == n for n in range(4)}
        return {
            name: jnp.stack([jnp.where(members, losses, 0).sum(), members.sum()])
            for name, members in groups.items()
        }

    def images(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns samples of the two coarsest levels at a fixed seed, each class in turn."""
        labels = wanted_labels((), self.config.data.draw.label_shares)
        requests = draw_requests(self.dataset, per_label=4, seed=0, labels=labels)
        sample = self.config.sample.copy_and_resolve_references()
        sample.update(seed=0, tile_batch=1 + len(requests) // jax.local_device_count())
        sample.longest = 2 * self.patch
        params = state.ema[str(self.config.train.ema_widths[0])]
        samples = dict(self.generate(params, dict(enumerate(requests)), sample=sample))
        side = max(max(pixels.shape) for pixels in samples.values())
        grid = np.stack([paste_centred(samples[n], (side, side))[0] for n in range(len(requests))])
        return {"samples": grid[..., None] / np.float32(65535)}


def _follows_adam(path: tuple[jax.tree_util.KeyEntry, ...]) -> bool:
    """Whether a parameter is the head of one channel, which has no directions to balance."""
    return jax.tree_util.keystr(path, simple=True, separator="/") in _NOT_ORTHOGONAL
