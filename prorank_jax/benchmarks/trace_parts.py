"""Where a step's time goes, from the profiler's trace: each operation's time by the part it belongs to.

A trace names the operations of the compiled program that ran on each thread or stream, and for how long;
the program's text says which part of the model each came from. Several operations may run at once, so the
sums are time of threads, and shares are shares of that.

Traces of a CPU were read. What is read of those of TPUs and GPUs is as XLA writes and others read them: none
was recorded for this.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

FORWARD, BACKWARD, AGAIN = "forward", "backward", "computed again"
OTHER = "other"
# The first that an operation's path contains; a path names the modules and scopes around it.
_PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("attention: projections", re.compile(r"/attention/(?:query|key|value|output)/")),
    ("norms", re.compile(r"/(?:attention_norm|mlp_norm|final_norm|query_norm|key_norm)\b")),
    ("MLP", re.compile(r"/mlp/")),
    ("attention: softmax and rotation", re.compile(r"/attention\b")),
    ("vocabulary head", re.compile(r"answer_logits|answer_direction")),
    ("embedding", re.compile(r"_embed\b")),
    ("sampling", re.compile(r"[/(]sampling\b")),
    ("loss", re.compile(r"[/(]loss\b")),
    ("optimizer", re.compile(r"[/(]optimizer\b")),
    (
        "weights and kept values by layer",
        re.compile(r"while/body/.*dynamic_(?:update_)?(?:index|slice)"),
    ),
)
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?metadata=\{[^}]*?op_name="([^"]*)"', re.MULTILINE)
_MODULE = re.compile(r"^HloModule ([\w.\-]+)", re.MULTILINE)
# They enclose other operations, which may run on other threads meanwhile.
_WAITING = ("while", "conditional")
# How traces call the planes of devices, and the lines of those that matter here.
_TPU, _OPERATIONS, _PROGRAMS = "/device:TPU:", "XLA Ops", "XLA Modules"
_GPU, _STREAM = "/device:GPU:", "Stream #"

Event = tuple[float, float, str]  # start, duration, name


@dataclass(frozen=True)
class Operation:
    """One run of an operation on a thread: its name in the program, and its own nanoseconds."""

    name: str
    nanoseconds: float


def part_of(path: str) -> tuple[str, str]:
    """The part of the model and the direction that an operation's path names."""
    part = next((name for name, pattern in _PARTS if pattern.search(path)), OTHER)
    if "rematted_computation" in path:
        return part, AGAIN
    return part, BACKWARD if "transpose(" in path else FORWARD


def operation_paths(text: str) -> dict[str, str]:
    """The path of each instruction of a compiled program's text that has one."""
    return {found[1]: found[2] for found in _INSTRUCTION.finditer(text)}


def module_name(text: str) -> str:
    """The name of a compiled program, under which traces list its operations."""
    found = _MODULE.search(text)
    if found is None:
        raise ValueError("the text is no compiled program: it has no line `HloModule NAME`")
    return found[1]


def own_time(events: Iterable[Event]) -> Iterator[Operation]:
    """What each event of one thread took without the events inside it.

    Args:
        events: (start, duration, name) in nanoseconds; two either stand apart or one is inside the other.
    """
    open_events: list[tuple[float, float, str, float]] = []  # end, own time so far, name, start

    def close_before(start: float) -> Iterator[Operation]:
        while open_events and open_events[-1][0] <= start:
            _, own, name, _ = open_events.pop()
            yield Operation(name, max(own, 0.0))

    for start, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        yield from close_before(start)
        if open_events:
            end, own, outer, began = open_events[-1]
            open_events[-1] = (end, own - duration, outer, began)
        open_events.append((start + duration, duration, name, start))
    yield from close_before(float("inf"))


def traced_operations(folder: Path, module: str) -> list[Operation]:
    """The operations of one program in the newest trace under a folder.

    Raises:
        ValueError: there is no trace, or none of the program.
    """
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise ValueError(f"{folder}: holds no trace (*.xplane.pb)")
    operations: list[Operation] = []
    for plane in jax.profiler.ProfileData.from_file(str(files[-1])).planes:
        for events in _events_of(plane, module):
            operations += [done for done in own_time(events) if not done.name.startswith(_WAITING)]
    if not operations:
        raise ValueError(f"{files[-1]}: no operation of {module} is in it; run the step while it is recorded")
    return operations


def _events_of(plane: Any, module: str) -> Iterator[list[Event]]:
    """The program's operations on each line of a plane: a thread, a stream, or the operations of a TPU."""
    if plane.name.startswith(_TPU):
        yield list(_events_on_tpu(plane, module))
        return
    for line in plane.lines:
        is_stream = plane.name.startswith(_GPU) and line.name.startswith(_STREAM)
        named = ((event, _operation_name(event, module, is_stream)) for event in line.events)
        yield [(event.start_ns, event.duration_ns, name) for event, name in named if name is not None]


def _events_on_tpu(plane: Any, module: str) -> Iterator[Event]:
    """A TPU's operations: their events have the instruction's text for a name, and no program.

    Programs have a line of their own, with `MODULE(NUMBER)` for a name.
    """
    lines = {line.name: list(line.events) for line in plane.lines}
    runs = sorted(
        (event.start_ns, event.start_ns + event.duration_ns)
        for event in lines.get(_PROGRAMS, ())
        if event.name.partition("(")[0] == module
    )
    starts = [start for start, _ in runs]
    for event in lines.get(_OPERATIONS, ()):
        latest = bisect_right(starts, event.start_ns) - 1
        if latest >= 0 and event.start_ns < runs[latest][1]:
            yield event.start_ns, event.duration_ns, event.name.partition(" = ")[0].lstrip("%")


def _operation_name(event: Any, module: str, is_stream: bool) -> str | None:
    """The program's operation; None: of none.

    Args:
        is_stream: whether the event is a GPU's. There a kernel of a CUDA graph has its own name only, which
            counts: what it took must not be missing.
    """
    stats = dict(event.stats)
    if "hlo_op" not in stats:
        return str(event.name) if is_stream else None
    # Of names one within the other, which `::` joins, the last is the operation's.
    return str(stats["hlo_op"]).rpartition("::")[2] if stats.get("hlo_module") == module else None


def time_by_part(operations: Iterable[Operation], paths: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Nanoseconds of each part and direction; operations without a path are `OTHER`."""
    sums: dict[tuple[str, str], float] = {}
    for done in operations:
        key = part_of(paths.get(done.name, ""))
        sums[key] = sums.get(key, 0.0) + done.nanoseconds
    return sums


def unplaced_share(operations: Sequence[Operation], paths: Mapping[str, str]) -> float:
    """The share of the time of operations without a path."""
    unplaced = sum(done.nanoseconds for done in operations if done.name not in paths)
    return unplaced / max(sum(done.nanoseconds for done in operations), 1.0)


def time_by_operation(operations: Iterable[Operation]) -> Counter[str]:
    """Nanoseconds of each operation of the program."""
    sums: Counter[str] = Counter()
    for done in operations:
        sums[done.name] += round(done.nanoseconds)
    return sums
