"""The denoiser of patches, and the radiographs that it generates."""

from collections.abc import Container, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt16
from ml_collections import ConfigDict

from femur_jax.data.strategies import check, known_sizes, patch_sides
from femur_jax.data.synthetic import Request
from femur_jax.diffusion import edm
from femur_jax.diffusion.canvases import Job
from femur_jax.diffusion.conditioning import CHANNELS, Conditioning, vector_length
from femur_jax.diffusion.generation import Model, tile_denoiser
from femur_jax.diffusion.sampler import Sampler
from femur_jax.errors import UserError
from femur_jax.models.functional import Params, functional
from femur_jax.models.unet import UNet


class Denoiser:
    """One denoiser for the patches of every level.

    Attributes:
        config: Config of the run; see configs/patch_diffusion.py.
        patch: Side of a patch in pixels.
        levels: Number of levels of the model.
        model: U-Net as two functions.
    """

    def __init__(self, config: ConfigDict, *, patch: int, levels: int):
        """Builds the model.

        Args:
            config: Config of the run.
            patch: Side of a patch in pixels.
            levels: Number of levels of the training radiographs.

        Raises:
            UserError: The strategy is unknown, or the U-Net does not fit the patches.
        """
        check(config.data)
        _check_model(config.model, min(patch_sides(config.data, patch)))
        self.config, self.patch = config, patch
        self.levels = levels if config.data.strategy == "pyramid" else 1
        self.model = functional(
            lambda rngs: UNet(
                in_channels=CHANNELS,
                conditions=vector_length(self.levels),
                **config.model,
                rngs=rngs,
            )
        )

    def network(
        self, params: Params, conditioning: Conditioning, key: Key[Array, ""] | None = None
    ) -> edm.Network:
        """Binds everything but the noisy patch and its noise level to the U-Net.

        Args:
            params: The parameters of the U-Net.
            conditioning: The inputs apart from the noisy patch.
            key: The key of dropout, in training.
        """
        channels, vector = conditioning.channels(), conditioning.vector(self.levels)

        def F(x: Float[Array, "batch height width 1"], c_noise: Float[Array, "batch"]):
            x = jnp.concatenate([x, channels], axis=-1)
            return self.model.apply(params, x, c_noise, vector, key)

        return F

    def denoise(
        self,
        params: Params,
        x: Float[Array, "batch patch patch 1"],
        sigma: Float[Array, "batch"],
        conditioning: Conditioning,
    ) -> Float[Array, "batch patch patch 1"]:
        """Returns D(x; sigma) of patches, 0 outside of the radiograph; see `generation.Denoise`."""
        F = self.network(params, conditioning)
        D = edm.denoise(F, x, sigma, sigma_data=self.config.diffusion.sigma_data)
        return conditioning.mask() * D

    def generate(
        self,
        params: Params,
        requests: Mapping[int, Request],
        *,
        sample: ConfigDict,
        finished: Container[int] = (),
        progress: bool = False,
        weak: Model | None = None,
    ) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
        """Generates radiographs; see `training.task.Generator`.

        Args:
            params: One of the averages of `TrainState.ema`.
            requests: The radiographs to generate, by number.
            sample: The config's `sample`.
            finished: Numbers of the radiographs that exist, see `Sampler.sample`.
            progress: Whether to show a progress bar.
            weak: A worse model for autoguidance, see `tile_denoiser`.

        Raises:
            UserError: A setting is out of range.
        """
        if sample.longest and sample.longest < self.patch:
            raise UserError(
                f"config.sample.longest is {sample.longest}; give at least the patch's side of "
                f"{self.patch} pixels, or 0 for all levels."
            )
        denoise = tile_denoiser(Model(self.denoise, params), guidance=sample.guidance, weak=weak)
        sampler = Sampler(denoise, sample, patch=self.patch)
        jobs = [Job(n, r, self._sizes(r, sample.longest)) for n, r in requests.items()]
        return sampler.sample(jobs, finished=finished, progress=progress)

    def _sizes(self, request: Request, longest: int) -> list[tuple[int, int]]:
        """Height and width of each level to generate, coarsest first."""
        strategy = self.config.data.strategy
        sizes = known_sizes(strategy, request.height, request.width, self.patch)
        return [size for size in sizes if not longest or max(size) <= longest]


def _check_model(model: ConfigDict, side: int) -> None:
    """Checks that the U-Net can be built.

    Args:
        model: The config's `model`.
        side: The side of the smallest patches.

    Raises:
        UserError: A setting of the model does not fit the patches or the others.
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
            f"config.model.channels is {model.channels}; make it a multiple of 8, the number of "
            "channels that are normalised together."
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
