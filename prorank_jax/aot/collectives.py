"""What the collectives of a compiled program send over the interconnect.

Bytes that one chip sends, with the ring algorithms of Thakur, Rabenseifner and Gropp, "Optimization of
Collective Communication Operations in MPICH" (2005), section 4: of an operand of b bytes in a group of n
chips, an all-gather sends (n − 1)·b, a reduce-scatter and an all-to-all (n − 1)/n·b, an all-reduce, which is
the last two after each other, 2·(n − 1)/n·b, and a permute b.
"""

from __future__ import annotations

import math
import re

from prorank_jax.aot.hlo import Computation, Instruction

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_OTHER_NAMES = {
    "ragged-all-to-all": "all-to-all",
    "collective-broadcast": "collective-permute",
    "send": "collective-permute",
}
_CHANNEL = re.compile(r"channel_id=(\d+)")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,]*\})?")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_MESH = re.compile(r"replica_groups=@?mesh\[([^\]]*)\]\s*(?:,[^{]*)?\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?:=(\d+))?(?::\((\d+)\)(\d+))?")


def collective_kind(line: Instruction) -> str | None:
    """Which of `KINDS` an instruction starts; None for all others, the end of an asynchronous one too."""
    name = line.opcode.removesuffix("-start")
    name = _OTHER_NAMES.get(name, name)
    return name if name in KINDS else None


def channel(line: Instruction) -> str:
    """What tells one collective from another; parts of an asynchronous one share it."""
    found = _CHANNEL.search(line.attributes)
    return found[1] if found else line.name


def group_size(line: Instruction, devices: int) -> int:
    """Chips that take part in one group.

    Raises:
        ValueError: groups written in a form that is not known here.
    """
    iota = _IOTA.search(line.attributes)
    if iota:
        return int(iota[2])
    mesh = _MESH.search(line.attributes)
    if mesh:
        sizes = {name: int(size) for name, size, _, _ in _AXIS.findall(mesh[1])}
        used = _AXIS.findall(mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, _, _, part in used)
    listed = _LISTED.search(line.attributes)
    if listed:
        return len(listed[1].split(",")) if listed[1] else devices
    if "source_target_pairs=" in line.attributes:
        return 2
    raise ValueError(f"HLO: {line.name} has replica groups in an unknown form: {line.attributes[:120]!r}")


def sent_bytes(kind: str, operand_bytes: int, group: int) -> float:
    """Bytes that each chip of a group sends for one collective."""
    share = (group - 1) / group
    return {
        "all-gather": operand_bytes * (group - 1.0),
        "reduce-scatter": operand_bytes * share,
        "all-reduce": 2 * operand_bytes * share,
        "all-to-all": operand_bytes * share,
        "collective-permute": float(operand_bytes),
    }[kind]


def wire_bytes(line: Instruction, computation: Computation, devices: int) -> tuple[str, float] | None:
    """Kind and bytes sent of an instruction; None if it is no collective.

    The TPU compiler writes a reduce-scatter as an all-reduce and a slice in one fusion.
    """
    kind = collective_kind(line)
    if kind is None:
        return None
    if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
        kind = "reduce-scatter"
    operands = sum(shape.bytes for operand in computation.operands_of(line) for shape in operand.shapes)
    return kind, sent_bytes(kind, operands, group_size(line, devices))
