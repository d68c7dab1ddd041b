"""XLA's text of a compiled program, as instructions and how often each runs."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"s8": 1, "u8": 1, "pred": 1, "f8e4m3fn": 1, "f8e5m2": 1, "token": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.-]+)")
_BRACKET = re.compile(r"[()]")
_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")


@dataclass(frozen=True)
class Shape:
    """An array of a program.

    Attributes:
        kind: Element type, such as bf16.
        sides: Length of each axis.
    """

    kind: str
    sides: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.elements * _BYTES.get(self.kind, 4)


@dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: Name of the result.
        shapes: Arrays of the result, several for a tuple.
        opcode: Operation, such as fusion.
        operands: Instructions that make the operands, by name.
        attributes: Text after the operands.
        is_root: Whether the result is that of its computation.
    """

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Size of the result."""
        return sum(shape.bytes for shape in self.shapes)

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute, such as `calls`, names."""
        found = re.search(rf"\b{attribute}=%([\w.-]+)", self.attributes)
        return found[1] if found else None

    @property
    def target(self) -> str:
        """Name of the function that a custom call runs, "" for other instructions."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclass(frozen=True)
class Computation:
    """A function of a program.

    Attributes:
        instructions: Instructions by name, in the order in which they run.
    """

    instructions: dict[str, Instruction] = field(default_factory=dict)

    def operand(self, instruction: Instruction, number: int) -> Instruction:
        """The instruction that makes an operand."""
        return self.instructions[instruction.operands[number]]

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(i for i in self.instructions.values() if i.is_root)


@dataclass(frozen=True)
class Module:
    """A whole program.

    Attributes:
        computations: Functions by name.
        entry: Name of the one that runs.
    """

    computations: Mapping[str, Computation]
    entry: str

    def executed(self) -> Iterator[tuple[Computation, int]]:
        """The computations that run, and how often each does.

        A loop's body runs as often as XLA's `known_trip_count` says; of a conditional all branches
        count. What a fusion or a reduction calls is a part of it, and not listed.

        Raises:
            ValueError: XLA does not state how often a loop runs.
        """
        pending = [(self.entry, 1)]
        while pending:
            name, times = pending.pop()
            computation = self.computations[name]
            yield computation, times
            for instruction in computation.instructions.values():
                pending += [(called, times * n) for called, n in _calls(instruction)]


def parse(text: str) -> Module:
    """Reads the text of `jax.stages.Compiled.as_text`.

    Raises:
        ValueError: It is not the text of a program.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = Computation()
            entry = header[2] if header[1] else entry
        elif instruction := _instruction(line):
            current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY, so it is not a compiled program")
    return Module(computations, entry)


def shapes_in(text: str) -> tuple[Shape, ...]:
    """All arrays that a text names, such as (bf16[2,3]{1,0}, u8[0])."""
    return tuple(
        Shape(kind, tuple(int(n) for n in sides.split(",") if n))
        for kind, sides in _SHAPE.findall(text)
    )


def _instruction(line: str) -> Instruction | None:
    name, equals, rest = line.strip().partition(" = ")
    if not equals or not name.removeprefix("ROOT ").startswith("%"):
        return None
    result = _until_closed(rest) if rest.startswith("(") else rest.partition(" ")[0]
    opcode, _, rest = rest[len(result) :].strip().partition("(")
    operands = _until_closed("(" + rest)
    return Instruction(
        name=name.removeprefix("ROOT ").lstrip("%"),
        shapes=shapes_in(result),
        opcode=opcode,
        operands=tuple(_NAME.findall(operands)),
        attributes=rest[len(operands) - 1 :],
        is_root=name.startswith("ROOT "),
    )


def _until_closed(text: str) -> str:
    """The text up to the bracket that closes the first one."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return text[: bracket.end()]
    return text


def _calls(instruction: Instruction) -> Iterator[tuple[str, int]]:
    """The computations that an instruction runs, and how often."""
    if instruction.opcode == "while":
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', instruction.attributes)
        if not known:
            raise ValueError(f"XLA does not state how often {instruction.name} runs")
        yield instruction.called("body") or "", int(known[1])
    elif instruction.opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        names = _NAME.findall(branches[1]) if branches else []
        for called in ("true_computation", "false_computation"):
            names += [name] if (name := instruction.called(called)) else []
        yield from ((name, 1) for name in names)
    elif instruction.opcode in ("call", "async-start"):
        name = instruction.called("to_apply") or instruction.called("calls")
        yield from [(name, 1)] if name else []
