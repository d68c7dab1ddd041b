"""Times of kernels and collectives on a GPU, from its data sheet: lower limits of a step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from femur_jax.gpu_plan.collectives import Collective
from femur_jax.gpu_plan.kernels import CLASSES, Kernel
from femur_jax.gpu_plan.targets import BANDWIDTH_SHARE, MATRIX_SHARE, Gpu


@dataclass(frozen=True)
class Prediction:
    """The time of a training step.

    Attributes:
        classes: Number of kernels and their seconds in a step, by class.
        optimizer: Seconds of the optimizer's kernels, a part of those of `classes`.
        sent: Bytes that a device sends in a step: within its node, and to other nodes.
        communication: Seconds of all collectives, one after the other.
        exposed: Seconds of collectives during which nothing else is scheduled.
        model_flops: Matrix operations of the model in a step on one device, without those that
            are repeated to save memory.
        share: Part of the rate of the best matrix products that `model_flops` reaches.
    """

    classes: dict[str, tuple[int, float]]
    optimizer: float
    sent: tuple[float, float]
    communication: float
    exposed: float
    model_flops: int
    share: float

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return sum((seconds for _, seconds in self.classes.values()), self.exposed)


def kernel_seconds(kernel: Kernel, gpu: Gpu) -> float:
    """Seconds of one run: the longest of matrix units, other units and memory.

    A data sheet's float32 rate counts a product and a sum as two operations; others count as one.
    """
    return max(
        kernel.matrix / (MATRIX_SHARE * gpu.matrix),
        kernel.vector / (gpu.vector / 2),
        kernel.bytes / (BANDWIDTH_SHARE * gpu.bandwidth),
    )


def collective_seconds(collective: Collective, gpu: Gpu) -> float:
    """Seconds of one run in a ring of its devices."""
    return collective.sent / (gpu.in_node if collective.in_node else gpu.network)


def predict(
    kernels: Sequence[Kernel], collectives: Iterable[Collective], gpu: Gpu, *, model_flops: int
) -> Prediction:
    """Adds the times of a program's kernels, and of collectives what exceeds concurrent kernels."""
    classes = {
        group: (
            sum(k.times for k in kernels if k.group == group),
            sum((k.times * kernel_seconds(k, gpu) for k in kernels if k.group == group), 0.0),
        )
        for group in CLASSES
    }
    communication = exposed = in_node = network = 0.0
    for collective in collectives:
        seconds = collective_seconds(collective, gpu)
        hidden = sum(kernel_seconds(kernel, gpu) for kernel in collective.meanwhile)
        communication += collective.times * seconds
        exposed += collective.times * max(seconds - hidden, 0.0)
        if collective.in_node:
            in_node += collective.times * collective.sent
        else:
            network += collective.times * collective.sent
    seconds = sum(seconds for _, seconds in classes.values()) + exposed
    return Prediction(
        classes=classes,
        optimizer=sum(
            (k.times * kernel_seconds(k, gpu) for k in kernels if "/optimizer/" in k.source), 0.0
        ),
        sent=(in_node, network),
        communication=communication,
        exposed=exposed,
        model_flops=model_flops,
        share=model_flops / seconds / (MATRIX_SHARE * gpu.matrix),
    )
