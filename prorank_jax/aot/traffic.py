"""Bytes that a compiled program moves on each chip: to and from HBM, and over the interconnect.

Instructions in a loop count as often as it runs, and of a choice the way that moves least. A fusion counts
what it reads and writes, not what it computes in between; an operand that it only slices counts as the slice,
an array that it updates in place as the update. Arrays in other memory spaces than HBM count nothing. Nothing
is known of what a kernel reads twice or finds on the chip already, so this is neither an upper nor a lower
bound of a run's traffic.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from prorank_jax.aot.collectives import channel, collective_kind, wire_bytes
from prorank_jax.aot.hlo import Computation, Instruction, Program
from prorank_jax.aot.loops import Scope, body_scope, trip_count

_MOVES_NOTHING = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "add-dependency",
        "optimization-barrier",
        "partition-id",
        "replica-id",
    }
)
_TARGETS_THAT_MOVE_NOTHING = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
_VIEWS = ("bitcast", "reshape")
_ASYNC_START, _ASYNC_DONE = '"AsyncCollectiveStart"', '"AsyncCollectiveDone"'


@dataclass
class Traffic:
    """Bytes on one chip for one execution.

    Attributes:
        hbm: read and written.
        sent: over the interconnect, by kind of collective.
        unknown_loops: loops whose length could not be read; they count once.
    """

    hbm: float = 0.0
    sent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    unknown_loops: list[str] = field(default_factory=list)

    def add(self, other: Traffic, times: int = 1) -> None:
        """Adds what another part moves, executed so many times."""
        self.hbm += other.hbm * times
        for kind, count in other.sent.items():
            self.sent[kind] += count * times
        self.unknown_loops += other.unknown_loops


def program_traffic(program: Program, devices: int) -> Traffic:
    """The traffic of one execution on each of the program's devices."""
    return _of_computation(program, Scope(program.entry), devices)


def _of_computation(program: Program, scope: Scope, devices: int) -> Traffic:
    total = Traffic()
    seen: set[str] = set()
    for line in scope.computation:
        total.add(_of_instruction(program, line, scope, devices, seen))
    return total


def _of_instruction(
    program: Program, line: Instruction, scope: Scope, devices: int, seen: set[str]
) -> Traffic:
    if line.opcode == "while":
        return _of_loop(program, line, scope, devices)
    if line.opcode == "conditional":
        parts = [
            _of_computation(program, Scope(program.computations[name]), devices) for name in line.branches()
        ]
        return min(filter(lambda part: part.hbm, parts), key=lambda part: part.hbm, default=Traffic())
    called = line.called("to_apply" if line.opcode == "call" else "calls")
    if line.opcode in ("call", "async-start") and called:
        return _of_computation(program, Scope(program.computations[called]), devices)
    part = Traffic()
    if line.opcode == "fusion" and called:
        computation = program.computations[called]
        part.hbm = _fusion_hbm(program, line, computation, scope.computation)
        _add_collectives(program, computation, devices, seen, part)
        return part
    part.hbm = _plain_hbm(line, scope.computation)
    _count_collective(line, scope.computation, devices, seen, part)
    return part


def _of_loop(program: Program, line: Instruction, scope: Scope, devices: int) -> Traffic:
    times = trip_count(program, line, scope)
    part = Traffic(unknown_loops=[line.name] if times is None else [])
    part.add(
        _of_computation(program, body_scope(program, line, scope), devices), 1 if times is None else times
    )
    return part


def _count_collective(
    line: Instruction, computation: Computation, devices: int, seen: set[str], part: Traffic
) -> None:
    """Counts a collective once for each time its loop body runs, however many fusions show a piece of it."""
    found = wire_bytes(line, computation, devices)
    if found and channel(line) not in seen:
        seen.add(channel(line))
        part.sent[found[0]] += found[1]


def _add_collectives(
    program: Program, computation: Computation, devices: int, seen: set[str], part: Traffic
) -> None:
    for line in computation:
        _count_collective(line, computation, devices, seen, part)
        inner = line.called("calls")
        if line.opcode == "fusion" and inner:
            _add_collectives(program, program.computations[inner], devices, seen, part)


def _plain_hbm(line: Instruction, computation: Computation) -> float:
    """Bytes of an instruction outside of fusions."""
    opcode = line.opcode
    if opcode in _MOVES_NOTHING or opcode.endswith(("-done", "-update")):
        return 0.0
    operands = computation.operands_of(line)
    if opcode == "custom-call" and any(name in line.attributes for name in _TARGETS_THAT_MOVE_NOTHING):
        return 0.0
    if opcode == "copy-start":
        return sum(shape.hbm_bytes for shape in line.shapes[:2])
    if opcode in ("slice-start", "dynamic-slice-start"):
        source, target = line.shapes[0], line.shapes[1]
        return target.padded_bytes * (int(source.in_hbm) + int(target.in_hbm))
    if opcode in ("slice", "dynamic-slice", "gather"):
        read = line.shapes[0].padded_bytes if operands[0].shapes[0].in_hbm else 0
        return read + line.hbm_bytes + sum(operand.hbm_bytes for operand in operands[1:])
    if opcode == "dynamic-update-slice":
        update = operands[1]
        return update.hbm_bytes + (update.shapes[0].padded_bytes if line.shapes[0].in_hbm else 0)
    if opcode.endswith("-start"):
        # Its result holds the operand's buffer, the new one and flags; what it reads it writes elsewhere.
        results = line.shapes[len(operands) : len(operands) * 2]
        return sum(operand.hbm_bytes for operand in operands) + sum(shape.hbm_bytes for shape in results)
    return sum(operand.hbm_bytes for operand in operands) + line.hbm_bytes


def _fusion_hbm(program: Program, line: Instruction, inside: Computation, outside: Computation) -> float:
    operands = outside.operands_of(line)
    if _ASYNC_START in inside.root.attributes:
        return sum(operand.hbm_bytes for operand in operands) + line.shapes[1].hbm_bytes
    if _ASYNC_DONE in inside.root.attributes:
        return 0.0
    read = sum(
        _bytes_read(program, inside, number)
        for number, operand in enumerate(operands)
        if operand.shapes and operand.shapes[0].in_hbm
    )
    roots = inside.operands_of(inside.root) if inside.root.opcode == "tuple" else [inside.root]
    written = sum(
        _bytes_written(program, inside, root)
        for root, shape in zip(roots, line.shapes, strict=False)
        if shape.in_hbm
    )
    return read + written


def _size(line: Instruction) -> int:
    return sum(shape.padded_bytes for shape in line.shapes)


def _bytes_read(program: Program, computation: Computation, number: int) -> int:
    """Of a fusion's parameter: all of it, or the slices that are all it is used for."""
    parameter = computation.parameters.get(number)
    return 0 if parameter is None else min(_size(parameter), _uses(program, computation, parameter))


def _uses(program: Program, computation: Computation, line: Instruction) -> int:
    whole = _size(line)
    total = 0
    for user in computation.users[line.name]:
        place = user.operands.index(line.name)
        inner = user.called("calls")
        if user.opcode in _VIEWS:
            total += _uses(program, computation, user)
        elif user.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
            total += _size(user)
        elif user.opcode == "fusion" and inner:
            total += _bytes_read(program, program.computations[inner], place)
        elif user.opcode == "tuple" or (user.opcode == "dynamic-update-slice" and place == 0):
            continue  # handed on, or updated in place
        elif collective_kind(user) and "all-reduce-scatter" not in computation.name:
            continue  # counted where the collective starts
        else:
            return whole
    return total


def _bytes_written(program: Program, computation: Computation, root: Instruction) -> int:
    """Of a fusion's result: all of it, the part that it updates in place, or nothing if it is handed on."""
    if root.opcode in _VIEWS:
        return _bytes_written(program, computation, computation.instructions[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return _size(computation.instructions[root.operands[1]])
    inner = root.called("calls")
    if root.opcode == "fusion" and inner:
        nested = program.computations[inner]
        roots = nested.operands_of(nested.root) if nested.root.opcode == "tuple" else [nested.root]
        return sum(_bytes_written(program, nested, each) for each in roots)
    if root.opcode in ("parameter", "get-tuple-element") or collective_kind(root):
        return 0
    return _size(root)
