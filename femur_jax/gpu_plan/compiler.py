"""The training step of a config, compiled for GPUs that need not be there."""

import contextlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter
from femur_jax.errors import UserError
from femur_jax.gpu_plan.model_flops import matrix_flops
from femur_jax.gpu_plan.targets import Gpu
from femur_jax.models.backend import planned_for
from femur_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from femur_jax.stages.tasks import make_task
from femur_jax.training.program import Program

_KEPT = {"remat": False}
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


@dataclass(frozen=True)
class Compiled:
    """A compiled training step.

    Attributes:
        text: Optimised HLO of one device.
        devices: Number of devices of the mesh.
        parameters: Number of parameters of the model, over all devices.
        samples: Samples of a microbatch on one device.
        microbatches: Number of microbatches of a step.
        state: Bytes of the training state on one device.
        arguments: Bytes of state, batch and key on one device.
        temporary: Bytes of activations, gradients and workspace on one device.
        outputs: Bytes of results that do not take the memory of arguments.
        model_flops: Matrix operations of the model in a step on one device, as its author wrote
            it: nothing is computed twice to save memory, and the optimizer has none.
    """

    text: str
    devices: int
    parameters: int
    samples: int
    microbatches: int
    state: int
    arguments: int
    temporary: int
    outputs: int
    model_flops: int

    @property
    def memory(self) -> int:
        """All bytes that a device needs at once."""
        return self.arguments + self.temporary + self.outputs


def check_plugin() -> None:
    """Looks for JAX's CUDA plugin, which compiles for GPUs.

    Raises:
        UserError: It is not installed, or its version is not that of JAX.
    """
    wanted = importlib.metadata.version("jax")
    for name in _PLUGINS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.version(name)
            if found == wanted:
                return
            raise UserError(
                f"{name} has version {found} and JAX {wanted}; "
                f'install both in one version: pip install "jax[cuda12]=={wanted}".'
            )
    raise UserError(
        "Compiling for a GPU needs JAX's CUDA plugin (2.5 GB, no GPU): pip install "
        f'"jax[cuda12]=={wanted}".'
    )


def gpus(gpu: Gpu, nodes: int, gpus_a_node: int) -> list[Any]:
    """Devices to compile for, with a process for each GPU, as `launch/submit` starts them.

    Raises:
        UserError: The CUDA plugin is missing or of another version.
    """
    check_plugin()
    shape = f"{nodes}x{gpus_a_node}x1"
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name=shape, topology=shape, target_config=gpu.text
    )
    return topology.devices


def compile_step(config: ConfigDict, devices: list[Any], *, patch: int) -> Compiled:
    """Compiles the training step of a config.

    Args:
        config: Config of a model; its dataset is not read.
        devices: All devices of the run.
        patch: Side of the dataset's patches in pixels.

    Raises:
        UserError: Mesh, batch and devices do not fit each other.
    """
    mesh = make_mesh(config.mesh, devices)
    microbatches, batch_size = config.train.get("accumulate", 1), config.train.batch_size
    check_batch_size(batch_size, mesh, microbatches)
    with _with_dataset(config, patch) as config:
        task = make_task(config)
        sample = task.streams()[0].samples[0]
        assert sample is not None  # the streams are endless
        batch = {
            name: jax.ShapeDtypeStruct(
                (batch_size, *np.shape(value)),
                np.asarray(value).dtype,
                sharding=batch_sharding(mesh),
            )
            for name, value in sample.items()
        }
        program = Program(task, mesh)
        with planned_for(devices[0].platform):
            compiled = program.compile(batch)
        model_flops = _model_flops(config, batch) // mesh.size
    memory = compiled.memory_analysis()
    assert memory is not None  # XLA gives it for GPUs and CPUs
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    return Compiled(
        text=compiled.as_text() or "",
        devices=mesh.size,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(program.state_shapes.params)),
        samples=batch_size // shards // microbatches,
        microbatches=microbatches,
        state=program.state_bytes,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        model_flops=model_flops,
    )


def _model_flops(config: ConfigDict, batch: dict[str, jax.ShapeDtypeStruct]) -> int:
    """Matrix operations of a step with all samples in one microbatch, and Adam."""
    config = config.copy_and_resolve_references()
    for section, plain in (("train", {"accumulate": 1, "optimizer": "adam"}), ("model", _KEPT)):
        config[section].update({k: v for k, v in plain.items() if k in config[section]})
    task = make_task(config)
    state, key = jax.eval_shape(task.init, jax.random.key(0)), jax.random.key(0)
    return matrix_flops(jax.make_jaxpr(task.step)(state, batch, key).jaxpr)


@contextlib.contextmanager
def _with_dataset(config: ConfigDict, patch: int) -> Iterator[ConfigDict]:
    """A copy of a config with four radiographs of two levels; the step needs only their shapes."""
    config = config.copy_and_resolve_references()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "dataset"
        with DatasetWriter(folder, patch=patch, provenance={"kind": "noise"}) as writer:
            for n in range(4):
                pixels = np.full((2 * patch, 2 * patch), n, np.uint16)
                radiograph = Radiograph(pixels, f"{n}", LABELS[n % 2], f"{n}", "hospital", 0.2)
                writer.add(encode(radiograph, patch), "train")
        config.dataset = str(folder)
        yield config
