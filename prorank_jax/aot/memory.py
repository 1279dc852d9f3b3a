"""What a compiled step needs of a chip's HBM, as the compiler planned it, or that it refused to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
# The compiler has two sentences: one about the whole program, one about its temporaries alone.
_REFUSALS = (
    re.compile(r"Used ([\d.]+)([KMG]?) of ([\d.]+)([KMG]?) hbm"),
    re.compile(r"HLO temporaries \(([\d.]+)([KMG]?)\) exceeds available HBM \(([\d.]+)([KMG]?)\)"),
)
COMPILER, SUM = "compiler's peak", "sum of kinds"


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        arguments: state and batch.
        outputs: those that do not take an argument's place.
        temporaries: activations and the like.
        code: the program.
        peak: what is needed at once.
        peak_is: `COMPILER`, or `SUM` of the four, which no reuse makes smaller.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int
    peak: int
    peak_is: str


@dataclass(frozen=True)
class Refusal:
    """The compiler refuses a program that needs more memory than there is.

    Attributes:
        used: bytes that it would need at least.
        available: bytes that the compiler may use.
    """

    used: int
    available: int


def planned_memory(compiled: Any) -> Memory:
    """Reads the plan of a compiled step; takes the compiler's own peak where this jaxlib has it."""
    stats = compiled.memory_analysis()
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    kinds = (
        stats.argument_size_in_bytes,
        max(0, outputs),
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    peak = getattr(stats, "peak_memory_in_bytes", 0)
    return Memory(*kinds, peak=peak or sum(kinds), peak_is=COMPILER if peak else SUM)


def refusal(message: str) -> Refusal | None:
    """What the compiler's error says of memory; None if it is about something else."""
    found = next((match for match in (form.search(message) for form in _REFUSALS) if match), None)
    if found is None:
        return None
    used, available = (float(found[at]) * _UNITS[found[at + 1]] for at in (1, 3))
    return Refusal(int(used), int(available))
