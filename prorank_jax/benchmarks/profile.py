"""Where the time of a step goes: runs it under jax's profiler and prints a table of its parts."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.benchmarks.growth_points import PROGRAMS, Point, Size
from prorank_jax.benchmarks.growth_step import build, filled_state, prepare
from prorank_jax.benchmarks.trace_parts import (
    AGAIN,
    BACKWARD,
    FORWARD,
    OTHER,
    module_name,
    operation_paths,
    time_by_operation,
    time_by_part,
    traced_operations,
    unplaced_share,
)
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, COMPUTE_DTYPES, REMAT_POLICIES
from prorank_jax.config_checks import require, require_at_least, require_choice, require_new_file
from prorank_jax.device_memory import naming_memory
from prorank_jax.flops import measured_matmul_flops
from prorank_jax.models.sources import SMOLLM2_SOURCE
from prorank_jax.run_folder import write_json

DIRECTIONS = (FORWARD, BACKWARD, AGAIN)
_WARMUP = 2
_LISTED = 30
# A GPU's kernels that are launched by a CUDA graph do not say which operation of the program they are.
_WITHOUT_GRAPHS = {"xla_gpu_enable_command_buffer": ""}
_MUCH = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the profile."""
    add = parser.add_argument
    add("--program", default="1", help="1, 2 or score (%(default)s)")
    add("--model", default=SMOLLM2_SOURCE, help="whose sizes the step has; no weights are read (%(default)s)")
    add("--batch", type=int, default=8, help="prompts, in stage 2 lists (%(default)s)")
    add("--group", type=int, default=16, help="completions of a prompt in stage 1 (%(default)s)")
    add("--list_size", type=int, default=4, help="documents of a list in stage 2 (%(default)s)")
    add("--max_length", type=int, default=128, help="prompt in tokens (%(default)s)")
    add(
        "--shortest",
        type=int,
        help="stage 1's prompts have this many tokens to --max_length, in rows where training would have rows"
        " (all have --max_length)",
    )
    add("--shared", type=int, default=0, help="tokens that those begin with (%(default)s)")
    add("--dtype", default="float32", help=f"{' or '.join(COMPUTE_DTYPES)} (%(default)s)")
    add("--remat", default="dots_no_batch", help="what the backward pass recomputes (%(default)s)")
    add("--attention", default="xla", help=f"{', '.join(ATTENTION_IMPLEMENTATIONS)} (%(default)s)")
    add("--rounds", type=int, default=5, help="steps that are recorded (%(default)s)")
    add("--trace", type=Path, help="keep the trace in this folder, for xprof or Perfetto")
    add("--output", type=Path, help="file for the table as JSON")


def run(arguments: argparse.Namespace, console: Console | None = None) -> dict[str, Any]:
    """Profiles the step that a parsed command line asks for; returns what it writes as JSON.

    Raises:
        ValueError: an option that cannot work, or an output file that is there already or cannot be written.
        TooLittleMemoryError: the step finds no room.
    """
    console = console or Console()
    require_choice("program", arguments.program, tuple(PROGRAMS))
    require_choice("dtype", arguments.dtype, COMPUTE_DTYPES)
    require_choice("remat", arguments.remat, REMAT_POLICIES)
    require_choice("attention", arguments.attention, ATTENTION_IMPLEMENTATIONS)
    require_at_least("rounds", arguments.rounds, 1)
    output: Path | None = arguments.output
    if output is not None:
        require_new_file("output", output)
    shortest, shared = arguments.shortest, arguments.shared
    only_stage_1 = "with --program 1 only: the others are measured on prompts of --max_length tokens"
    require(arguments.program == "1" or shortest is None, "shortest", shortest, only_stage_1)
    require(shortest is not None or not shared, "shared", shared, "with --shortest only")
    size = Size(arguments.group, arguments.max_length, arguments.batch, arguments.list_size, shortest, shared)
    options = {
        "model.source": arguments.model,
        "model.compute_dtype": arguments.dtype,
        "model.remat": arguments.remat,
        "model.attention": arguments.attention,
    }
    point = Point(arguments.program, "", 0, size)
    with naming_memory(f"lower --batch ({arguments.batch}) or --max_length ({arguments.max_length})"):
        found = profile_step(point, options, arguments.rounds, arguments.trace)
    console.print(part_table(found))
    console.print(summary(found), soft_wrap=True, highlight=False)
    if output is not None:
        write_json(output, found)
    return found


def profile_step(point: Point, options: dict[str, Any], rounds: int, trace: Path | None) -> dict[str, Any]:
    """Records some steps and sums their operations by part.

    On a GPU the step is compiled without CUDA graphs, so that it may take longer than it does in training.

    Args:
        options: dotted fields of the config; of them `model.source`.
        trace: folder that keeps the trace; None: it is thrown away.

    Returns:
        `parts`: for each part and direction its milliseconds a step over all threads; `seconds` of each
        recorded step; `unplaced`, the share of operations whose place in the model is not known; `longest`,
        single operations; `model_flops` of a step; `matmul_flops`, what large products reach in a second.
    """
    shape = resolve_shape(options["model.source"])
    program = build(point, shape, options)
    on_gpu = program.mesh.devices.flat[0].platform == "gpu"
    options_of_xla = _WITHOUT_GRAPHS if on_gpu else None
    step = prepare(program, point, shape, options_of_xla)
    text = step.compiled.as_text()
    first = filled_state(program.arguments[0])
    for _ in range(_WARMUP):
        _, first = step.run(first)
    taken = []
    kept = tempfile.TemporaryDirectory() if trace is None else nullcontext(str(trace))
    with kept as folder:
        with jax.profiler.trace(folder):
            for _ in range(rounds):
                seconds, first = step.run(first)
                taken.append(seconds)
        operations = traced_operations(Path(folder), module_name(text))
    paths = operation_paths(text)
    sums = time_by_part(operations, paths)
    longest = time_by_operation(operations).most_common(_LISTED)
    parts: dict[str, dict[str, float]] = {}
    for (part, direction), nanoseconds in sums.items():
        parts.setdefault(part, dict.fromkeys(DIRECTIONS, 0.0))[direction] = nanoseconds / 1e6 / rounds
    return {
        "step": PROGRAMS[point.program],
        "shape": program.shape,
        "options": options,
        "device": jax.devices()[0].device_kind,
        "seconds": taken,
        "parts": dict(sorted(parts.items(), key=lambda part: -sum(part[1].values()))),
        "unplaced": unplaced_share(operations, paths),
        "longest": [
            {"operation": name, "path": paths.get(name, ""), "ms": nanoseconds / 1e6 / rounds}
            for name, nanoseconds in longest
        ],
        "model_flops": program.model_flops,
        "matmul_flops": measured_matmul_flops(options["model.compute_dtype"]),
    }


def part_table(found: Mapping[str, Any]) -> Table:
    """The parts, the costliest first: milliseconds a step over all threads, and shares."""
    table = Table(title=f"{found['step']}: {found['shape']}, {len(found['seconds'])} steps")
    for heading in ("", *(f"{direction} ms" for direction in DIRECTIONS), "share"):
        table.add_column(heading, justify="right" if heading else "left")
    everything = sum(sum(part.values()) for part in found["parts"].values())
    for name, part in found["parts"].items():
        shown = (f"{part[direction]:.1f}" if part[direction] else "" for direction in DIRECTIONS)
        table.add_row(name, *shown, f"{sum(part.values()) / everything:.1%}")
    return table


def summary(found: Mapping[str, Any]) -> str:
    """How long a step is, what share of the machine's matrix-product peak it reaches, and what is unknown."""
    ordered = sorted(found["seconds"])
    median = statistics.median(ordered)
    share = found["model_flops"] / median / found["matmul_flops"]
    unplaced = found["unplaced"]
    doubt = f"; the place of {unplaced:.0%} of the time is not known: it counts as {OTHER}"
    return (
        f"a step: {median:.3g} s ({ordered[0]:.3g} to {ordered[-1]:.3g}), with the profiler on; "
        f"{found['model_flops'] / median / 1e9:.0f} GFLOP/s, {share:.0%} of what large products reach here"
        f"{doubt if unplaced > _MUCH else ''}"
    )
