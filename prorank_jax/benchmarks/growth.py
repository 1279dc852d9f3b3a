"""How time and memory of a step grow with one of its sizes, measured.

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from prorank_jax.aot.chips import GIB
from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.aot.programs import StepProgram, check_sizes
from prorank_jax.benchmarks.growth_points import AXES, PROGRAMS, Measured, Point, points_of
from prorank_jax.benchmarks.growth_report import as_json, show, write_picture
from prorank_jax.benchmarks.growth_step import MeasuredStep, build, config_of, filled_state, prepare
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, COMPUTE_DTYPES, REMAT_POLICIES
from prorank_jax.config_checks import require, require_at_least, require_choice
from prorank_jax.device_memory import naming_memory
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.sources import SMOLLM2_SOURCE
from prorank_jax.run_folder import write_json

ROOT = Path(__file__).resolve().parents[2]
RESULT_FILE = "growth.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the curves."""
    add = parser.add_argument
    add("--model", default=SMOLLM2_SOURCE, help="whose sizes the step has; no weights are read (%(default)s)")
    add("--programs", nargs="+", default=list(PROGRAMS), help="of 1, 2 and score (all)")
    add("--curves", nargs="+", default=list(AXES), help=f"sizes that grow, of {', '.join(AXES)} (all)")
    add("--longest", type=int, default=4096, help="longest prompt of the curves over length (%(default)s)")
    add("--max_length", type=int, default=128, help="prompt of the other curves, in tokens (%(default)s)")
    add("--dtype", default="float32", help=f"{' or '.join(COMPUTE_DTYPES)} (%(default)s)")
    add("--remat", default="dots_no_batch", help="what the backward pass recomputes (%(default)s)")
    add("--attention", default="xla", help=f"{', '.join(ATTENTION_IMPLEMENTATIONS)} (%(default)s)")
    help_temperature = "of the sampling: at 1e-9 all completions of a prompt are alike (%(default)s)"
    add("--temperature", type=float, default=1.0, help=help_temperature)
    add("--rounds", type=int, default=5, help="runs of each point after one for warm-up (%(default)s)")
    peaks = "also run each point once in a process of its own, for its peak (on a TPU an upper bound)"
    add("--peaks", action="store_true", help=peaks)
    add("--output_dir", type=Path, default=Path("runs/growth"), help="of the result (%(default)s)")


def run(arguments: argparse.Namespace, console: Console | None = None) -> list[Measured]:
    """Measures the curves that a parsed command line asks for, and writes JSON and pictures.

    JSON and picture are written after each round: Ctrl-C, or a point that the memory does not hold, leaves
    what was measured before it.

    Raises:
        ValueError: an option or a point that cannot work, before anything is measured, or a folder that
            holds a result already or cannot be written to.
        TooLittleMemoryError: a point finds no room.
    """
    console = console or Console()
    require_choice("dtype", arguments.dtype, COMPUTE_DTYPES)
    require_choice("remat", arguments.remat, REMAT_POLICIES)
    require_choice("attention", arguments.attention, ATTENTION_IMPLEMENTATIONS)
    require_at_least("rounds", arguments.rounds, 1)
    folder: Path = arguments.output_dir
    remedy = "holds a result already; name another folder or remove it"
    require(not (folder / RESULT_FILE).exists(), "output_dir", str(folder), remedy)
    points = points_of(arguments.programs, arguments.longest, arguments.max_length, arguments.curves)
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
    for point in points:
        check_sizes(config_of(point, options), point.program)
    _make_folder(folder)
    # Before this process takes the device's memory.
    peaks = [_peak_alone(point, options, console) if arguments.peaks else None for point in points]
    programs = [build(point, shape, options) for point in points]
    planned = list(zip(points, programs, peaks, strict=True))
    measured: list[Measured] = []
    lengths = f"--longest ({arguments.longest}) or --max_length ({arguments.max_length})"
    try:
        with naming_memory(f"lower {lengths}, or name fewer --curves"):
            for _, same in itertools.groupby(planned, key=lambda each: each[0].program):
                ended = measured
                for curves in measure(list(same), shape, arguments.rounds, console):
                    measured = [*ended, *curves]
                    is_complete = len(measured) == len(points) and len(curves[0].seconds) == arguments.rounds
                    write_json(folder / RESULT_FILE, as_json(measured, options, is_complete=is_complete))
                    write_picture(folder, curves)
    finally:
        if measured:
            show(measured, console)
    return measured


def measure(
    points: Sequence[tuple[Point, StepProgram, int | None]],
    shape: ModelConfig,
    rounds: int,
    console: Console,
) -> Iterator[list[Measured]]:
    """Times the points of one program in turn; yields all of them after each round but the warm-up.

    Args:
        points: each with its abstract step, and with its peak, if that was measured.
    """
    steps: list[MeasuredStep] = []
    for point, program, _ in points:
        steps.append(prepare(program, point, shape))
        console.print(
            f"compiled {PROGRAMS[point.program]}, {AXES[point.axis]}: {point.value}", highlight=False
        )
    first = filled_state(points[0][1].arguments[0])
    taken: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        passed = []
        for step in steps:
            seconds, first = step.run(first)
            passed.append(seconds)
        console.print(f"round {number} of {rounds}" if number else "warm-up", highlight=False)
        if number:
            for seconds, of_point in zip(passed, taken, strict=True):
                of_point.append(seconds)
            yield [
                Measured(point, tuple(seconds), step.planned_bytes, peak)
                for (point, _, peak), seconds, step in zip(points, taken, steps, strict=True)
            ]


def _make_folder(folder: Path) -> None:
    """Before anything is measured, so that no result is without a place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output_dir={str(folder)!r}: cannot be made ({error.strerror}); name another"
        ) from error
    require(os.access(folder, os.W_OK), "output_dir", str(folder), "cannot be written to; name another")


def _peak_alone(point: Point, options: Mapping[str, Any], console: Console) -> int:
    """The peak of a process that runs only this point, in bytes; it is shown, too."""
    wanted = {"program": point.program, "size": dataclasses.asdict(point.size), "options": dict(options)}
    command = [sys.executable, "-m", "prorank_jax.benchmarks.growth_peak", json.dumps(wanted)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise ValueError(f"--peaks: {PROGRAMS[point.program]} with {point.size} ended: {said[-1]}")
    peak = int(done.stdout.split()[-1])
    console.print(
        f"peak of {PROGRAMS[point.program]}, {AXES[point.axis]}: {point.value}: {peak / GIB:.2f} GiB",
        highlight=False,
    )
    return peak
