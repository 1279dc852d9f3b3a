"""Reads the text of a compiled program (HLO): computations, instructions, shapes with their layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

_BITS = re.compile(r"(?:pred|[a-z]+?)(\d+)?(?:e\d+m\d+\w*)?")
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_INDEX = re.compile(r"index=(\d+)")


@dataclass(frozen=True)
class ArrayShape:
    """One array: type, dimensions, minor-to-major order, first tile, memory space (0 is HBM)."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def in_hbm(self) -> bool:
        return self.space == 0 and bool(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return math.ceil(math.prod(self.dims) * _bits(self.dtype) / 8)

    @property
    def padded_bytes(self) -> int:
        """Bytes with the minor dimensions filled up to whole tiles, as they lie in memory."""
        dims = [self.dims[axis] for axis in self.order] if self.order else list(self.dims[::-1])
        for place, size in enumerate(self.tile[::-1]):
            if place < len(dims):
                dims[place] = math.ceil(dims[place] / size) * size
        return math.ceil(math.prod(dims) * _bits(self.dtype) / 8)

    @property
    def hbm_bytes(self) -> int:
        """Bytes in HBM; a single number is kept elsewhere, whatever its layout says."""
        return self.padded_bytes if self.in_hbm else 0


def _bits(dtype: str) -> int:
    """Width of an element: 8 for `pred`, 0 for what holds no data."""
    if dtype == "pred":
        return 8
    found = _BITS.fullmatch(dtype)
    return int(found[1]) if found and found[1] else 0


def parse_shapes(text: str) -> tuple[ArrayShape, ...]:
    """The arrays of a type, those of a tuple in their order."""
    return tuple(_array_shape(*found.groups()) for found in _ARRAY.finditer(text))


def _array_shape(dtype: str, dims: str, layout: str | None) -> ArrayShape:
    order, _, rest = (layout or "").partition(":")
    tile, space = _TILE.search(rest), _SPACE.search(rest)
    return ArrayShape(
        dtype=dtype,
        dims=_integers(dims.replace("<=", "")),
        order=_integers(order),
        tile=_integers(tile[1]) if tile else (),
        space=int(space[1]) if space else 0,
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.isdecimal())


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        operands: names of instructions of the same computation.
        literal: what stands between the parentheses, e.g. a constant's value.
        attributes: the rest of the line.
    """

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    @property
    def hbm_bytes(self) -> int:
        return sum(shape.hbm_bytes for shape in self.shapes)

    def called(self, role: str) -> str | None:
        """The computation that `role=%name` names."""
        found = re.search(rf"\b{role}=%([\w.\-]+)", self.attributes)
        return found[1] if found else None

    def branches(self) -> tuple[str, ...]:
        """The computations of a conditional."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return tuple(_NAME.findall(listed[1]))
        pair = (self.called("true_computation"), self.called("false_computation"))
        return tuple(name for name in pair if name)

    @property
    def index(self) -> int:
        """Of a get-tuple-element."""
        found = _INDEX.search(self.attributes)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Computation:
    """A named list of instructions, in the order they are scheduled."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @cached_property
    def root(self) -> Instruction:
        return next(line for line in self.instructions.values() if line.is_root)

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        lines = self.instructions.values()
        return {int(line.literal): line for line in lines if line.opcode == "parameter"}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for line in self.instructions.values():
            for operand in dict.fromkeys(line.operands):
                users[operand].append(line)
        return users

    def operands_of(self, line: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in line.operands]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())


@dataclass(frozen=True)
class Program:
    """A compiled program: its computations by name, and the one that starts it."""

    computations: dict[str, Computation]
    entry: Computation


def _balanced(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    raise ValueError(f"HLO: a parenthesis is never closed in {text[:80]!r}")


def _parse_instruction(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if found is None:
        return None
    rest = _COMMENT.sub("", line[found.end() :])
    at = _balanced(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, at)
    if opcode is None:
        raise ValueError(f"HLO: no operation in {line.strip()[:80]!r}")
    end = _balanced(rest, opcode.end() - 1)
    literal = rest[opcode.end() : end - 1]
    return Instruction(
        name=found[2],
        opcode=opcode[1],
        shapes=parse_shapes(rest[:at]),
        operands=() if opcode[1] == "constant" else tuple(_NAME.findall(literal)),
        literal=literal,
        attributes=rest[end:],
        is_root=found[1] is not None,
    )


def parse_program(text: str) -> Program:
    """Reads what `compiled.as_text()` gives.

    Raises:
        ValueError: it is no HLO text with an entry computation.
    """
    computations: dict[str, Computation] = {}
    entry: Computation | None = None
    current: Computation | None = None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations[header[2]] = Computation(header[2])
            entry = current if header[1] else entry
        elif current is not None:
            instruction = _parse_instruction(line)
            if instruction is not None:
                current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("HLO: no entry computation; give the text of a compiled program")
    return Program(computations, entry)
