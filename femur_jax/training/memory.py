"""Whether a training step fits the memory of a device, before it is compiled."""

import jax
from ml_collections import ConfigDict

from femur_jax.errors import UserError
from femur_jax.training.program import Program

_GIB = 2**30


def device_memory() -> int | None:
    """Bytes that JAX may use on a device of this process; None on CPUs, which share the host's."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def check_memory(
    config: ConfigDict, program: Program, sample_bytes: int, limit: int | None
) -> None:
    """Refuses a step that needs more memory than a device has.

    Args:
        config: The config of the run, whose batch the mesh divides.
        program: The task on its mesh.
        sample_bytes: Bytes of activations for each sample of a microbatch; 0 where unknown.
        limit: Bytes that JAX may use on a device; None where unknown.

    Raises:
        UserError: The step does not fit; the message names the number of microbatches that does.
    """
    if not limit or not sample_bytes:
        return
    shards = program.mesh.shape["data"] * program.mesh.shape["fsdp"]
    batch, microbatches = config.train.batch_size // shards, config.train.accumulate

    def needed(microbatches: int) -> int:
        return program.state_bytes + batch // microbatches * sample_bytes

    if needed(microbatches) <= limit:
        return
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and needed(n) <= limit]
    advice = (
        f"set config.train.accumulate={fitting[0]}"
        if fitting
        else "choose a larger config.mesh.fsdp, a smaller model or GPUs with more memory"
    )
    raise UserError(
        f"A microbatch of {batch // microbatches} samples on each device needs about "
        f"{needed(microbatches) / _GIB:.1f} GiB, and JAX may use {limit / _GIB:.1f} GiB "
        f"(XLA_PYTHON_CLIENT_MEM_FRACTION); {advice}."
    )
