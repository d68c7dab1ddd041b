"""The collectives of a compiled program: what they send, and what runs at the same time."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from femur_jax.gpu_plan.hlo import Instruction, Module
from femur_jax.gpu_plan.kernels import Kernel, kernel_of

_KIND = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)"
    r"(-start)?$"
)


@dataclass(frozen=True)
class Collective:
    """Communication that joins devices.

    Attributes:
        kind: Operation, such as all-reduce.
        bytes: Size of the result on one device.
        devices: Number of devices that it joins.
        in_node: Whether they are all of one node.
        times: Number of runs in a step.
        meanwhile: Kernels that are scheduled between its start and its end.
    """

    kind: str
    bytes: int
    devices: int
    in_node: bool
    times: int = 1
    meanwhile: tuple[Kernel, ...] = ()

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one run, when the devices form a ring."""
        others = self.devices - 1
        if self.kind == "all-reduce":
            return 2 * self.bytes * others / self.devices
        if self.kind == "reduce-scatter":  # its result is one part of what is reduced
            return float(self.bytes * others)
        if self.kind == "collective-permute":
            return float(self.bytes)
        return self.bytes * others / self.devices


def collectives(module: Module, *, devices: int, gpus_a_node: int) -> Iterator[Collective]:
    """All collectives of a program, except those of devices with themselves.

    Args:
        module: The program of one device.
        devices: Number of all devices.
        gpus_a_node: Number of devices of a node; the first are of the first node.

    Raises:
        ValueError: The devices are written in an unknown form.
    """
    for computation, times in module.executed():
        scheduled = list(computation.instructions.values())
        for place, instruction in enumerate(scheduled):
            wrapped = _wrapped(module, instruction)
            found = _KIND.match(wrapped.opcode)
            if not found or instruction.opcode == "async-done":
                continue
            groups = replica_groups(wrapped.attributes, devices)
            if groups.shape[1] == 1:
                continue
            nodes = groups // gpus_a_node
            meanwhile = []
            if instruction.opcode.endswith("-start"):
                for other in scheduled[place + 1 :]:
                    if other.opcode.endswith("-done") and instruction.name in other.operands:
                        break
                    if kernel := kernel_of(module, computation, other):
                        meanwhile.append(kernel)
            yield Collective(
                kind=found[1],
                bytes=_result_bytes(wrapped),
                devices=groups.shape[1],
                in_node=bool((nodes == nodes[:, :1]).all()),
                times=times,
                meanwhile=tuple(meanwhile),
            )


def replica_groups(text: str, devices: int) -> Int[np.ndarray, "groups members"]:
    """The device numbers that a collective joins, one row a group, from its attributes.

    The form [2,4]<=[4,2]T(1,0) counts to 8, as 4 x 2, transposed, as 2 x 4. The form
    mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'} counts likewise, as 4 x 2, and joins along a.

    Raises:
        ValueError: They are written in another form.
    """
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _counted(found[2], found[3]).reshape(_integers(found[1]))
    if found := re.search(
        r"replica_groups=mesh\[([^\]]+)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
        r" \{((?:'\w+',?)+)\}",
        text,
    ):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        numbers = _counted(found[2] or str(devices), found[3]).reshape(list(sizes.values()))
        joined = re.findall(r"'(\w+)'", found[4])
        order = [*(name for name in sizes if name not in joined), *joined]
        together = math.prod(sizes[name] for name in joined)
        return numbers.transpose([list(sizes).index(name) for name in order]).reshape(-1, together)
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]+\})\}", text):
        groups = re.findall(r"\{([\d,]+)\}", found[1])
        return np.array([_integers(group) for group in groups])
    if "replica_groups={}" in text:
        return np.arange(devices)[None]
    raise ValueError(f"no replica groups in {text.strip()[:200]}")


def _wrapped(module: Module, instruction: Instruction) -> Instruction:
    """The instruction that an async-start runs; any other instruction as it is."""
    name = instruction.called("calls") if instruction.opcode == "async-start" else None
    return module.computations[name].root if name else instruction


def _result_bytes(instruction: Instruction) -> int:
    """Size of the results; most starts return their operands before them."""
    count = len(instruction.operands)
    shapes = instruction.shapes
    if instruction.opcode.endswith("-start") and len(shapes) >= 2 * count:
        shapes = shapes[count : 2 * count]
    return sum(shape.bytes for shape in shapes)


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _counted(sides: str, order: str | None) -> np.ndarray:
    numbers = np.arange(math.prod(_integers(sides))).reshape(_integers(sides))
    return numbers.transpose(_integers(order)) if order else numbers
