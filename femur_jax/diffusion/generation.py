"""The trained denoiser with guidance, compiled for all devices of this process."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from femur_jax.diffusion.conditioning import Conditioning
from femur_jax.diffusion.sampler import TileDenoiser, at_level
from femur_jax.models.functional import Params
from femur_jax.parallel.mesh import local_mesh


@runtime_checkable
class Denoise(Protocol):
    """D(x; sigma) under its conditions, a pure function of arrays."""

    def __call__(
        self,
        params: Params,
        x: Float[Array, "batch patch patch 1"],
        sigma: Float[Array, "batch"],
        conditioning: Conditioning,
    ) -> Float[Array, "batch patch patch 1"]: ...


class Model(NamedTuple):
    """A denoiser with its parameters."""

    denoise: Denoise
    params: Params


def tile_denoiser(
    model: Model, *, guidance: Sequence[float] = (1.0,), weak: Model | None = None
) -> TileDenoiser:
    """Compiles the guided denoiser D_0 + w (D - D_0) of tiles, divided over local devices.

    Compiled functions are kept: the same model is compiled once for each batch size.

    Args:
        model: The model D, with the class.
        guidance: The factor w by level, where the last value holds for all finer levels. It is w
            in the notation of the second source, 1 + w in that of the first; 1 is the plain
            conditional model, at half of the cost.
        weak: The model D_0 for autoguidance, a worse one with the class (Karras et al. 2024, arXiv
            2406.02507, equation 3). Without it, D_0 is `model` without the class, as in
            classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, equation 6).
    """
    mesh = local_mesh()
    params = jax.device_put(
        [_on_host(m.params) for m in (model, weak) if m], NamedSharding(mesh, PartitionSpec())
    )
    split = NamedSharding(mesh, PartitionSpec("tiles"))

    def denoise(
        level: int,
        x: Float[Array, "batch patch patch 1"],
        sigma: Float[Array, "batch"],
        conditioning: Conditioning,
    ) -> Float[Array, "batch patch patch 1"]:
        # Copies, and no collectives: on CPUs, programs of several devices that wait for each other
        # could take all threads.
        D = _guided(
            params,
            *jax.device_put((x, sigma, conditioning), split),
            denoise=model.denoise,
            weak=weak.denoise if weak else None,
            guidance=at_level(guidance, level),
        )
        return jax.device_put(D, x.sharding)

    return denoise


@partial(jax.jit, static_argnames=("denoise", "weak", "guidance"))
def _guided(
    params: list[Params],
    x: Float[Array, "batch patch patch 1"],
    sigma: Float[Array, "batch"],
    conditioning: Conditioning,
    *,
    denoise: Denoise,
    weak: Denoise | None,
    guidance: float,
) -> Float[Array, "batch patch patch 1"]:
    D = denoise(params[0], x, sigma, conditioning)
    if guidance == 1:
        return D
    if weak is None:
        D_0 = denoise(params[0], x, sigma, conditioning.without_label())
    else:
        D_0 = weak(params[1], x, sigma, conditioning)
    return D_0 + guidance * (D - D_0)


def _on_host(params: Params) -> Params:
    """Whole arrays, even where other processes hold parts of them."""
    if all(array.is_fully_addressable for array in jax.tree.leaves(params)):
        return params
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(params, tiled=True))
