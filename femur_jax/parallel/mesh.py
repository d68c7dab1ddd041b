"""The devices of a run, arranged in a mesh with the axes data, fsdp and model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from femur_jax.errors import UserError

AXES = ("data", "fsdp", "model")


def make_mesh(config: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices in a mesh.

    Args:
        config: Sizes of the axes data, fsdp and model. One of them may be -1: it takes the
            remaining devices.
        devices: All devices of the run, each of a process of its own; JAX's where None.

    Raises:
        UserError: The product of the sizes is not the number of devices, or a process would hold
            an incomplete model group together with devices of another group.
    """
    sizes = [config[axis] for axis in AXES]
    local = jax.local_device_count() if devices is None else 1
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // -int(np.prod(sizes))
    if any(size < 1 for size in sizes) or np.prod(sizes) != count:
        wanted = " x ".join(f"{axis} {config[axis]}" for axis in AXES)
        raise UserError(
            f"The mesh {wanted} does not fit {count} devices; "
            "change config.mesh so that the product of its sizes is that number."
        )
    model = sizes[-1]
    if local % model and model % local:
        raise UserError(
            f"The mesh's model axis of {model} is neither a divisor nor a multiple of the {local} "
            "devices of a process; change config.mesh.model so that processes hold equal shares "
            "of a batch."
        )
    return jax.make_mesh(sizes, AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """A sharding that splits the first axis of an array over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Refuses a batch that cannot be split evenly over devices and `accumulate` microbatches.

    Raises:
        UserError: The batch cannot be split evenly.
    """
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if accumulate < 1 or batch_size < 1 or batch_size % (devices * accumulate):
        raise UserError(
            f"A batch of {batch_size} cannot be divided over {devices} devices (config.mesh: data "
            f"x fsdp) in {accumulate} microbatches (config.train.accumulate); choose a multiple of "
            "their product."
        )


@cache
def local_mesh() -> Mesh:
    """The devices of this process in a mesh with the one axis `tiles`, for sampling."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("tiles",), (AxisType.Auto,), devices=devices)
