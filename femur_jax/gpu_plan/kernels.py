"""The kernels of a compiled program: their classes, arithmetic and memory traffic."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from femur_jax.gpu_plan.hlo import Computation, Instruction, Module, Shape

CLASSES = ("convolutions", "matrix products", "attention", "elementwise")

_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while"),
        *("conditional", "call", "after-all", "partition-id", "replica-id", "iota"),
        *("opt-barrier", "async-start", "async-update", "async-done", "copy-done"),
    )
)
_COLLECTIVES = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)"
    r"(-start|-done)?$"
)
_MOVES = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "bitcast-convert"),
        *("convert", "broadcast", "reshape", "transpose", "copy", "slice", "concatenate", "pad"),
        *("iota", "reverse", "dynamic-slice", "dynamic-update-slice", "gather"),
        *("dot", "convolution"),
    )
)
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Kernel:
    """Work that a GPU is asked for at once.

    Attributes:
        group: One of CLASSES.
        name: Name in the program.
        source: The operation of the model that it comes from, "" where unknown.
        times: Number of runs in a step.
        matrix: Operations of matrix units in one run: two for a product and a sum in bfloat16, four
            in float32, which takes twice as long (TF32).
        vector: Operations of other units in one run: one in float32, two in whole numbers, which
            take twice as long.
        bytes: Bytes read from memory and written to it in one run.
    """

    group: str
    name: str
    source: str
    times: int
    matrix: int
    vector: int
    bytes: int


def kernels(module: Module) -> Iterator[Kernel]:
    """All kernels of a program but collectives."""
    for computation, times in module.executed():
        for instruction in computation.instructions.values():
            if kernel := kernel_of(module, computation, instruction, times):
                yield kernel


def kernel_of(
    module: Module, computation: Computation, instruction: Instruction, times: int = 1
) -> Kernel | None:
    """The kernel of an instruction; None where it costs nothing or is a collective."""
    if instruction.opcode in _FREE or _COLLECTIVES.match(instruction.opcode):
        return None
    operands = [computation.instructions[name] for name in instruction.operands]
    matrix = vector = 0
    moved = instruction.bytes + sum(operand.bytes for operand in operands)
    group = "elementwise"
    if instruction.opcode == "custom-call":
        moved -= _workspace(instruction)
        target = instruction.target
        if "cudnn$conv" in target:
            group, matrix = "convolutions", convolution_flops(instruction, operands)
        elif "fmha" in target:
            group, matrix = "attention", _attention_flops(instruction, operands)
        elif "cublas" in target:
            group, matrix = "matrix products", _product_flops(instruction, operands)
    elif instruction.opcode == "fusion":
        fused = module.computations[instruction.called("calls") or ""]
        inner = fused.instructions.values()
        moved = _fusion_bytes(fused, instruction)
        vector = sum(_vector(i, fused) for i in inner)
        dots = [i for i in inner if i.opcode == "dot"]
        if dots:
            group = "matrix products"
            matrix = sum(_dot_flops(dot, fused) for dot in dots)
        convolutions = [i for i in inner if i.opcode == "convolution"]
        if convolutions:
            group = "convolutions"
            matrix = sum(
                convolution_flops(i, [fused.operand(i, 0), fused.operand(i, 1)])
                for i in convolutions
            )
    elif instruction.opcode == "dot":
        group, matrix = "matrix products", _dot_flops(instruction, computation)
    found = re.search(r'op_name="([^"]*)"', instruction.attributes)
    source = found[1] if found else ""
    return Kernel(group, instruction.name, source, times, matrix, vector, moved)


def convolution_flops(instruction: Instruction, operands: list[Instruction]) -> int:
    """Operations of a convolution or of one of its gradients.

    cuDNN's names say which of input, filter and output of the convolution are operands; its
    `dim_labels` are those of the convolution itself. Each output takes a product and a sum for
    every weight of its channel.
    """
    first, second, result = operands[0].shapes[0], operands[1].shapes[0], instruction.shapes[0]
    output, weights = result, second
    if "BackwardInput" in instruction.target:
        output = first
    elif "BackwardFilter" in instruction.target:
        output, weights = second, result
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
    channels = weights.sides[labels[1].index("o")] if labels else weights.sides[-1]
    return _operations(first) * output.elements * weights.elements // channels


def _product_flops(instruction: Instruction, operands: list[Instruction]) -> int:
    """Operations of a cuBLAS call, whose config has the form of a dot's attributes."""
    text = instruction.attributes
    numbers = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', text)
    axes = [int(n) for n in re.findall(r"\d+", numbers[1])] if numbers else []
    return _product(instruction, operands[0], axes)


def _dot_flops(dot: Instruction, computation: Computation) -> int:
    numbers = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    axes = [int(n) for n in numbers[1].split(",") if n] if numbers else []
    return _product(dot, computation.operand(dot, 0), axes)


def _product(result: Instruction, left: Instruction, contracted: list[int]) -> int:
    length = math.prod(left.shapes[0].sides[axis] for axis in contracted)
    return _operations(left.shapes[0]) * result.shapes[0].elements * length


def _operations(operand: Shape) -> int:
    """Operations of a product and a sum, as `Kernel.matrix` counts them."""
    return 4 if operand.kind == "f32" else 2


def _attention_flops(instruction: Instruction, operands: list[Instruction]) -> int:
    """Operations of attention: two products, and five in its gradient, which repeats the first.

    Queries and keys have the axes batch, length, heads and channels.
    """
    queries, keys = operands[0].shapes[0], operands[1].shapes[0]
    products = 5 if "Backward" in instruction.target else 2
    return products * 2 * queries.elements * keys.sides[1]


def _fusion_bytes(fused: Computation, instruction: Instruction) -> int:
    """What a fusion reads and writes; of an operand that it slices, only the slices."""
    inner = list(fused.instructions.values())
    root = fused.root
    in_place = root.opcode == "dynamic-update-slice"
    moved = fused.operand(root, 1).bytes if in_place else instruction.bytes
    for parameter in (i for i in inner if i.opcode == "parameter"):
        users = [i for i in inner if parameter.name in i.operands]
        if not (in_place and users == [root] and root.operands[0] == parameter.name):
            moved += int(parameter.bytes * _share_read(parameter, inner))
    return moved


def _share_read(array: Instruction, inner: list[Instruction]) -> float:
    """The part of an array that is read: all of it, or slices, perhaps after a conversion."""
    elements = 0.0
    for user in inner:
        if array.name not in user.operands:
            continue
        if user.opcode in _SLICES and user.operands[0] == array.name:
            elements += user.shapes[0].elements
        elif user.opcode == "convert":
            elements += array.shapes[0].elements * _share_read(user, inner)
        else:
            return 1.0
    return min(elements / max(array.shapes[0].elements, 1), 1.0)


def _vector(instruction: Instruction, fused: Computation) -> int:
    """Operations of an instruction within a fusion; a reduction has one for each operand."""
    if instruction.opcode in _MOVES or not instruction.shapes:
        return 0
    source = fused.operand(instruction, 0) if "reduce" in instruction.opcode else instruction
    shape = source.shapes[0]
    return shape.elements * (2 if shape.kind[0] in "su" else 1)


def _workspace(call: Instruction) -> int:
    """Size of the scratch memory that cuDNN and cuBLAS have as their last result."""
    last = call.shapes[-1]
    return last.bytes if last.kind in ("u8", "s8") and len(call.shapes) > 1 else 0
