"""How often the loops of a compiled program run, read from their counters.

The TPU compiler does not write `known_trip_count` for all of its loops (none in jax 0.10), so a counter's
start, step and bound are followed to the constants they come from.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from prorank_jax.aot.hlo import Computation, Instruction, Program

_KNOWN = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')
_SAME_VALUE = ("copy", "bitcast", "convert", "reshape", "optimization-barrier", "copy-start", "copy-done")


@dataclass(frozen=True)
class Scope:
    """A computation and, in the body of a loop, where that loop stands and what it carries in.

    Attributes:
        carried: the while instruction's operand.
        outer: the scope of the while instruction.
    """

    computation: Computation
    carried: Instruction | None = None
    outer: Scope | None = None


def body_scope(program: Program, loop: Instruction, outer: Scope, role: str = "body") -> Scope:
    """The scope inside a while instruction's body (or condition)."""
    name = loop.called(role)
    if name is None:
        raise ValueError(f"HLO: {loop.name} names no {role}")
    carried = outer.computation.instructions[loop.operands[0]]
    return Scope(program.computations[name], carried, outer)


def _carries(scope: Scope, index: int) -> bool:
    """Whether an element of the loop's tuple leaves the body as it came in."""
    root = scope.computation.root
    if root.opcode != "tuple" or index >= len(root.operands):
        return False
    line = scope.computation.instructions[root.operands[index]]
    while line.opcode in _SAME_VALUE:
        line = scope.computation.instructions[line.operands[0]]
    return line.opcode == "get-tuple-element" and line.index == index


def _incoming(scope: Scope, index: int) -> int | None:
    """The value an element of the loop's tuple has before the loop."""
    if scope.outer is None or scope.carried is None:
        return None
    if scope.carried.opcode == "tuple":
        line = scope.outer.computation.instructions[scope.carried.operands[index]]
        return constant_value(line, scope.outer)
    return None


def constant_value(line: Instruction, scope: Scope) -> int | None:
    """The whole number an instruction always has; None where that cannot be read."""
    if line.opcode == "constant":
        return int(line.literal) if re.fullmatch(r"-?\d+", line.literal) else None
    if line.opcode in _SAME_VALUE:
        return constant_value(scope.computation.instructions[line.operands[0]], scope)
    if line.opcode == "get-tuple-element":
        source = scope.computation.instructions[line.operands[0]]
        if source.opcode == "parameter" and _carries(scope, line.index):
            return _incoming(scope, line.index)
        if source.opcode == "tuple":
            inner = scope.computation.instructions[source.operands[line.index]]
            return constant_value(inner, scope)
    return None


def _counter(line: Instruction, computation: Computation) -> int | None:
    """Which element of the loop's tuple an instruction is."""
    while line.opcode in _SAME_VALUE:
        line = computation.instructions[line.operands[0]]
    return line.index if line.opcode == "get-tuple-element" else None


def _step(body: Scope, index: int) -> int | None:
    """What the body adds to its counter."""
    computation = body.computation
    if computation.root.opcode != "tuple":
        return None
    line = computation.instructions[computation.root.operands[index]]
    while line.opcode in _SAME_VALUE:
        line = computation.instructions[line.operands[0]]
    if line.opcode != "add":
        return None
    sides = computation.operands_of(line)
    for side, other in (sides, sides[::-1]):
        if _counter(side, computation) == index:
            return constant_value(other, body)
    return None


def trip_count(program: Program, loop: Instruction, outer: Scope) -> int | None:
    """How often a while instruction's body runs; None where its counter cannot be followed."""
    known = _KNOWN.search(loop.attributes)
    if known:
        return int(known[1])
    condition, body = body_scope(program, loop, outer, "condition"), body_scope(program, loop, outer)
    test = condition.computation.root
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    left, right = condition.computation.operands_of(test)
    index = _counter(left, condition.computation)
    if index is None:
        return None
    # The condition hands nothing on: what stays as it is must be judged by the body.
    bound_index = _counter(right, condition.computation)
    bound = constant_value(right, condition)
    if bound_index is not None:
        bound = _incoming(body, bound_index) if _carries(body, bound_index) else None
    start, step = _incoming(body, index), _step(body, index)
    if start is None or bound is None or not step or step < 0:
        return None
    return max(0, math.ceil((bound - start) / step))
