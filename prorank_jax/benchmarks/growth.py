"""How time and memory of a step grow with one of its sizes: curves as JSON and PNG.

Points are timed in turn, round after round, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from prorank_jax.aot.chips import GIB
from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.benchmarks.growth_pictures import draw_curves
from prorank_jax.benchmarks.growth_points import AXES, GROUP, PROGRAMS, Measured, Point, points_of
from prorank_jax.benchmarks.growth_step import build, filled_state, prepare
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, COMPUTE_DTYPES, REMAT_POLICIES
from prorank_jax.config_checks import require, require_at_least, require_choice
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.sources import SMOLLM2_SOURCE
from prorank_jax.run_folder import write_json

ROOT = Path(__file__).resolve().parents[2]
RESULT_FILE = "growth.json"
GROWTH_FROM, GROWTH_TO = 1, 32  # completions of a prompt that stage 1's time is compared at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the curves."""
    add = parser.add_argument
    add("--model", default=SMOLLM2_SOURCE, help="whose sizes the step has; no weights are read (%(default)s)")
    add("--programs", nargs="+", default=list(PROGRAMS), help="of 1, 2 and score (all)")
    add("--longest", type=int, default=4096, help="longest prompt of the curves over length (%(default)s)")
    add("--max_length", type=int, default=128, help="prompt of the other curves, in tokens (%(default)s)")
    add("--dtype", default="float32", help=f"{' or '.join(COMPUTE_DTYPES)} (%(default)s)")
    add("--remat", default="dots_no_batch", help="what the backward pass recomputes (%(default)s)")
    add("--attention", default="xla", help=f"{', '.join(ATTENTION_IMPLEMENTATIONS)} (%(default)s)")
    help_temperature = "of the sampling: near 0 all completions of a prompt are alike (%(default)s)"
    add("--temperature", type=float, default=1.0, help=help_temperature)
    add("--rounds", type=int, default=5, help="runs of each point after one for warm-up (%(default)s)")
    add("--peaks", action="store_true", help="also run each point once in a process of its own, for its peak")
    add("--output_dir", type=Path, default=Path("runs/growth"), help="of the result (%(default)s)")


def run(arguments: argparse.Namespace, console: Console | None = None) -> list[Measured]:
    """Measures the curves that a parsed command line asks for, and writes JSON and pictures.

    Raises:
        ValueError: an option that cannot work, or a folder that holds a result already.
    """
    console = console or Console()
    require_choice("dtype", arguments.dtype, COMPUTE_DTYPES)
    require_choice("remat", arguments.remat, REMAT_POLICIES)
    require_choice("attention", arguments.attention, ATTENTION_IMPLEMENTATIONS)
    require_at_least("rounds", arguments.rounds, 1)
    folder: Path = arguments.output_dir
    remedy = "holds a result already; name another folder or remove it"
    require(not (folder / RESULT_FILE).exists(), "output_dir", str(folder), remedy)
    points = points_of(arguments.programs, arguments.longest, arguments.max_length)
    shape = resolve_shape(arguments.model)
    longest = max(point.size.length for point in points)
    remedy = f"the model has {shape.max_positions} positions; give --longest and --max_length below that"
    require(longest < shape.max_positions, "longest", longest, remedy)
    options = {
        "model.source": arguments.model,
        "model.compute_dtype": arguments.dtype,
        "model.remat": arguments.remat,
        "model.attention": arguments.attention,
        "grpo.temperature": arguments.temperature,
    }
    # Before this process takes the device's memory.
    peaks = [_peak_alone(point, options) for point in points] if arguments.peaks else [None] * len(points)
    measured = []
    for _, same in itertools.groupby(zip(points, peaks, strict=True), key=lambda pair: pair[0].program):
        measured += measure(list(same), shape, options, arguments.rounds, console)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULT_FILE, as_json(measured, options))
    for program in arguments.programs:
        curves = [each for each in measured if each.point.program == program]
        (folder / f"growth_{PROGRAMS[program].replace(' ', '')}.png").write_bytes(draw_curves(curves))
    console.print(curve_table(measured))
    growth = group_growth(measured)
    if growth is not None:
        console.print(
            f"stage 1, from {GROWTH_FROM} completion to {GROWTH_TO}: {growth - 1:+.1%} time", highlight=False
        )
    return measured


def measure(
    points: Sequence[tuple[Point, int | None]],
    shape: ModelConfig,
    options: dict[str, Any],
    rounds: int,
    console: Console,
) -> list[Measured]:
    """Times the points of one program in turn.

    Args:
        points: each with its peak, if that was measured.
        options: dotted fields of the config.
    """
    steps, first = [], None
    for point, _ in points:
        program = build(point, shape, options)
        steps.append(prepare(program, shape, trains=point.program != "score"))
        first = filled_state(program.arguments[0]) if first is None else first
        console.print(
            f"compiled {PROGRAMS[point.program]}, {AXES[point.axis]}: {point.value}", highlight=False
        )
    taken: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, seconds in zip(steps, taken, strict=True):
            passed, first = step.run(first)
            if number:
                seconds.append(passed)
        console.print(f"round {number} of {rounds}" if number else "warm-up", highlight=False)
    return [
        Measured(point, seconds, step.planned_bytes, peak)
        for (point, peak), seconds, step in zip(points, taken, steps, strict=True)
    ]


def _peak_alone(point: Point, options: Mapping[str, Any]) -> int:
    """The peak of a process that runs only this point."""
    wanted = {"program": point.program, "size": dataclasses.asdict(point.size), "options": dict(options)}
    command = [sys.executable, "-m", "prorank_jax.benchmarks.growth_peak", json.dumps(wanted)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise ValueError(f"--peaks: {PROGRAMS[point.program]} with {point.size} ended: {said[-1]}")
    return int(done.stdout.split()[-1])


def group_growth(measured: Sequence[Measured]) -> float | None:
    """Stage 1's time with many completions over that with one; None where that was not measured."""
    by_group = {
        each.point.value: each.median
        for each in measured
        if (each.point.program, each.point.axis) == ("1", GROUP)
    }
    if not {GROWTH_FROM, GROWTH_TO} <= set(by_group):
        return None
    return by_group[GROWTH_TO] / by_group[GROWTH_FROM]


def as_json(measured: Sequence[Measured], options: Mapping[str, Any]) -> dict[str, Any]:
    """All points with their rounds; seconds and bytes."""
    return {
        "options": dict(options),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "stage1_time_32_completions_over_1": group_growth(measured),
        "points": [
            {
                "program": PROGRAMS[each.point.program],
                "axis": each.point.axis,
                "value": each.point.value,
                "size": dataclasses.asdict(each.point.size),
                "seconds": {"median": each.median, "min": min(each.seconds), "max": max(each.seconds)},
                "rounds": list(each.seconds),
                "planned_bytes": each.planned_bytes,
                "peak_bytes": each.peak_bytes,
            }
            for each in measured
        ],
    }


def curve_table(measured: Sequence[Measured]) -> Table:
    """All points, one a row."""
    table = Table(title=f"{len(measured[0].seconds)} rounds of each point, medians")
    for heading in ("step", "what grows", "to", "s a step", "min to max", "planned GiB", "peak GiB"):
        table.add_column(heading, justify="left" if heading in ("step", "what grows") else "right")
    for each in measured:
        point, peak = each.point, each.peak_bytes
        table.add_row(
            PROGRAMS[point.program],
            AXES[point.axis],
            str(point.value),
            f"{each.median:.3g}",
            f"{min(each.seconds):.3g} to {max(each.seconds):.3g}",
            f"{each.planned_bytes / GIB:.2f}",
            "" if peak is None else f"{peak / GIB:.2f}",
        )
    return table
