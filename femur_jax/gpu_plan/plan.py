"""A training planned on paper: memory, kernels, collectives and time of a mesh of GPUs."""

from dataclasses import dataclass

from ml_collections import ConfigDict

from femur_jax.errors import UserError
from femur_jax.gpu_plan.collectives import collectives
from femur_jax.gpu_plan.compiler import Compiled, compile_step, gpus
from femur_jax.gpu_plan.hlo import parse
from femur_jax.gpu_plan.kernels import CLASSES, kernels
from femur_jax.gpu_plan.roofline import Prediction, predict
from femur_jax.gpu_plan.targets import Gpu
from femur_jax.markdown import table

_GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """A config on a mesh of GPUs.

    Attributes:
        gpu: The model of the GPUs.
        nodes: Number of nodes.
        gpus_a_node: Number of GPUs of each node.
        batch_size: Samples of a step, over all GPUs.
        steps: Steps of the training.
        compiled: The compiled step.
        prediction: Times of the compiled step.
    """

    gpu: Gpu
    nodes: int
    gpus_a_node: int
    batch_size: int
    steps: int
    compiled: Compiled
    prediction: Prediction

    @property
    def hours(self) -> float:
        """Hours of the whole training, without its evaluations and checkpoints."""
        return self.steps * self.prediction.seconds / 3600


def make_plan(
    config: ConfigDict, gpu: Gpu, nodes: int, gpus_a_node: int, *, patch: int, fraction: float
) -> Plan:
    """Compiles a config's step for a mesh of GPUs, in as few microbatches as memory permits.

    Args:
        config: Config of a model. `train.accumulate` is the smallest number of microbatches.
        gpu: The model of the GPUs.
        nodes: Number of nodes.
        gpus_a_node: Number of GPUs of each node.
        patch: Side of the dataset's patches in pixels.
        fraction: Part of a GPU's memory that JAX may use.

    Raises:
        UserError: The CUDA plugin is missing, the mesh or the batch do not fit the GPUs, or a
            microbatch of one sample does not fit their memory.
    """
    devices = gpus(gpu, nodes, gpus_a_node)
    config = config.copy_and_resolve_references()
    limit = fraction * gpu.memory
    while True:
        compiled = compile_step(config, devices, patch=patch)
        if compiled.memory <= limit:
            break
        config.train.accumulate = more_microbatches(compiled, limit, name=gpu.name)
    module = parse(compiled.text)
    prediction = predict(
        list(kernels(module)),
        collectives(module, devices=len(devices), gpus_a_node=gpus_a_node),
        gpu,
        model_flops=compiled.model_flops,
    )
    size, steps = config.train.batch_size, config.train.steps
    return Plan(gpu, nodes, gpus_a_node, size, steps, compiled, prediction)


def more_microbatches(compiled: Compiled, limit: float, *, name: str) -> int:
    """The number of microbatches to try next, if temporary memory is proportional to their size.

    Args:
        compiled: A step that needs more than `limit`.
        limit: Bytes that a GPU may use.
        name: The GPU's name, for the message.

    Raises:
        UserError: A microbatch has only one sample already.
    """
    if compiled.samples == 1:
        raise UserError(
            f"One sample needs {compiled.memory / _GIB:.1f} GiB on each GPU, and JAX may use "
            f"{limit / _GIB:.1f} GiB of {name}; choose a larger config.mesh.fsdp, a smaller model "
            "or another GPU."
        )
    fixed = compiled.memory - compiled.temporary
    one = compiled.temporary / compiled.samples
    return next(
        compiled.microbatches * compiled.samples // samples
        for samples in range(compiled.samples - 1, 0, -1)
        if compiled.samples % samples == 0 and (fixed + one * samples <= limit or samples == 1)
    )


def tables(plans: list[Plan]) -> list[str]:
    """Lines of Markdown: memory, kernels by class, collectives and times of plans."""
    place = ("GPU", "nodes x GPUs")
    memory = (
        *(*place, "microbatches x patches", "state, GiB", "arguments, GiB", "temporary, GiB"),
        "all, GiB",
    )
    work = (
        *(*place, *(f"{group}: number, ms" for group in CLASSES)),
        *("collectives: MB in the node, to others", "ms", "not hidden, ms"),
    )
    time = (
        *(*place, "step, ms", "optimizer, ms", "patches/s", "share of the peak", "steps"),
        *("hours", "GPU-hours"),
    )
    return [
        *table(memory, [_memory(plan) for plan in plans]),
        "",
        *table(work, [_work(plan) for plan in plans]),
        "",
        *table(time, [_time(plan) for plan in plans]),
    ]


def _name(plan: Plan) -> list[str]:
    return [plan.gpu.name, f"{plan.nodes} x {plan.gpus_a_node}"]


def _memory(plan: Plan) -> list[str]:
    c = plan.compiled
    sizes = (c.state, c.arguments - c.state, c.temporary + c.outputs, c.memory)
    return [
        *_name(plan),
        f"{c.microbatches} x {c.samples}",
        *(f"{size / _GIB:.2f}" for size in sizes),
    ]


def _work(plan: Plan) -> list[str]:
    p = plan.prediction
    return [
        *_name(plan),
        *(f"{number}, {1000 * seconds:.1f}" for number, seconds in p.classes.values()),
        ", ".join(f"{size / 1e6:.0f}" for size in p.sent),
        f"{1000 * p.communication:.1f}",
        f"{1000 * p.exposed:.1f}",
    ]


def _time(plan: Plan) -> list[str]:
    seconds = plan.prediction.seconds
    return [
        *_name(plan),
        f"{1000 * seconds:.0f}",
        f"{1000 * plan.prediction.optimizer:.1f}",
        f"{plan.batch_size / seconds:.0f}",
        f"{plan.prediction.share:.2f}",
        str(plan.steps),
        f"{plan.hours:.1f}",
        f"{plan.hours * plan.compiled.devices:.0f}",
    ]
