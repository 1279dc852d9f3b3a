"""The benchmark as a command: sets up the peer, checks that both sides agree, runs rounds, reports."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from prorank_jax.benchmarks import growth, profile
from prorank_jax.benchmarks.agreement import compare_timed, compare_values
from prorank_jax.benchmarks.environments import (
    environments_folder,
    has_cuda,
    peer_python,
    requirement_files,
)
from prorank_jax.benchmarks.loading import check_no_tpu, check_same_device, load_side
from prorank_jax.benchmarks.options import BenchmarkOptions, add_options, options_from
from prorank_jax.benchmarks.report import BenchmarkResult, SideResult, as_json, result_table, verdict
from prorank_jax.benchmarks.rounds import Round, alternate
from prorank_jax.benchmarks.side_environment import side_environment
from prorank_jax.benchmarks.side_process import SideProcess
from prorank_jax.benchmarks.tasks import TASKS, Task
from prorank_jax.benchmarks.tuning import fastest_batch, with_room
from prorank_jax.command_line import CommandParser
from prorank_jax.evaluation.names import parse_datasets
from prorank_jax.evaluation_task import check_split
from prorank_jax.messages import say
from prorank_jax.run_folder import write_json
from prorank_jax.storage_faults import TooLittleMemoryError

OURS = "ours"
ROOT = Path(__file__).resolve().parents[2]
# What needs no peer: its summary, its options, and what runs it.
ALONE: dict[str, tuple[str, Callable[..., None], Callable[..., Any]]] = {
    "growth": ("how time and memory of a step grow with its sizes", growth.add_arguments, growth.run),
    "profile": ("where the time of a step goes", profile.add_arguments, profile.run),
}
_DESCRIPTION = (
    "Measures this project: beside another library, on the same work and machine and in turn, or alone."
)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """A command line as it was given; `task` is the command.

    Raises:
        ValueError: an unknown command or option.
        SystemExit: after `--help`.
    """
    parser = CommandParser(prog="python launch/benchmark.py", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="task", required=True, parser_class=CommandParser)
    for name, task in TASKS.items():
        command = commands.add_parser(
            name,
            prog=f"{parser.prog} {name}",
            help=f"{task.unit} per second beside {' or '.join(task.peers)}",
        )
        add_options(command, task.peers)
        task.add_options(command)
    for name, (summary, add_arguments, _) in ALONE.items():
        add_arguments(commands.add_parser(name, prog=f"{parser.prog} {name}", help=summary))
    return parser.parse_args(arguments)


def comparison_from(given: argparse.Namespace) -> tuple[str, BenchmarkOptions, Any]:
    """The task, the shared options and the task's own.

    Raises:
        ValueError: an unknown peer, or a value that cannot work.
    """
    task = TASKS[given.task]
    return given.task, options_from(given, task.peers, task.dataset), task.size_from(given)


def run_benchmark(arguments: Sequence[str], console: Console | None = None) -> None:
    """Runs the benchmark that a command line asks for.

    Raises:
        ValueError: bad input, a peer that cannot be set up, a side that fails, or sides that disagree.
        SystemExit: after `--help`.
    """
    given = parse_arguments(arguments)
    if given.task in ALONE:
        ALONE[given.task][2](given, console)
    else:
        run_comparison(*comparison_from(given), console or Console())


def run_comparison(name: str, options: BenchmarkOptions, size: Any, console: Console) -> BenchmarkResult:
    """Measures beside a peer, prints the table and writes its JSON.

    Raises:
        ValueError: a TPU, a peer that cannot be set up, a side that fails, or sides that disagree.
        TooLittleMemoryError: a side finds no room.
    """
    check_no_tpu(options.peer)
    for dataset in parse_datasets([options.dataset]):
        check_split(dataset)  # before the peer is installed, which takes minutes
    task, peers = TASKS[name], ROOT / "launch" / "peers"
    python = peer_python(
        environments_folder(ROOT) / options.peer, requirement_files(peers, options.peer, cuda=has_cuda())
    )
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for the sides
    with tempfile.TemporaryDirectory(prefix="prorank-benchmark-") as folder:
        work = Path(folder)
        settings = task.write(options, size, work)
        commands = {
            OURS: [sys.executable, str(peers / f"ours_{name}.py")],
            options.peer: [str(python), str(peers / f"{options.peer.replace('-', '_')}_{name}.py")],
        }
        tried = settings.get("peer_batches", [])
        if len(tried) > 1:
            tuned = tune_peer(options, settings, tried, commands[options.peer], work, console)
            settings["peer_batch_seconds"] = tuned
        result = with_room(
            settings,
            work,
            lambda: compare_sides(name, task, options, settings, commands, work, console),
            lambda told: say(console, f"{options.peer}: {told}"),
        )
    console.print(result_table(result))
    say(console, verdict(result))
    if options.output is not None:
        write_json(options.output, as_json(result))
    return result


def compare_sides(
    name: str,
    task: Task,
    options: BenchmarkOptions,
    settings: Mapping[str, Any],
    commands: Mapping[str, Sequence[str]],
    work: Path,
    console: Console,
) -> BenchmarkResult:
    """Prepares two sides one after the other, checks that they agree, and measures them in turn.

    Args:
        settings: of the work folder, which is written.
        commands: name → program of a side; first ours, then the peer's.

    Raises:
        ValueError: a side fails, or they disagree.
    """

    def show(side: str, number: int, done: Round) -> None:
        kind = "warm-up" if number < options.warmup else f"round {number - options.warmup + 1}"
        compiled = f", {done.compiled_again} programs compiled in it" if done.compiled_again else ""
        console.print(f"{side}: {kind}, {done.seconds:.3g} s{compiled}", highlight=False)

    first, second = commands
    sides: list[SideProcess] = []
    facts: dict[str, dict[str, Any]] = {}
    compile_seconds: dict[str, float] = {}
    with contextlib.ExitStack() as running:
        for side_name, command in commands.items():
            console.print(f"{side_name}: loading", highlight=False)
            sides.append(running.enter_context(make_side(options, work, side_name, command)))
            facts[side_name] = load_side(sides[-1], work, options.dtype)
        check_same_device(facts)
        for side in sides:  # one after the other: both use the whole machine
            console.print(f"{side.name}: compiling and warming up", highlight=False)
            prepared = side.ask("prepare")
            facts[side.name] |= prepared.get("facts", {})
            compile_seconds[side.name] = float(prepared.get("compile_seconds", 0.0))
        answers = [side.ask("check") for side in sides]
        mine, theirs = (answer.get("values", []) for answer in answers)
        tolerance = task.tolerance[options.dtype]
        agreement = compare_values((first, second), mine, theirs, tolerance)
        own = compare_timed(first, answers[0], tolerance)
        rounds = alternate(sides, options.rounds, options.warmup, show)
        for side in sides:
            facts[side.name] |= _yardstick_of(side, console)
    results = [
        SideResult(side.name, facts[side.name], compile_seconds[side.name], rounds[side.name])
        for side in sides
    ]
    work_facts = {key: settings[key] for key in task.summarized if key in settings}
    shared = {
        "model": options.model,
        "dataset": options.dataset,
        "dtype": options.dtype,
        "threads": options.threads,
        "seed": options.seed,
        "quick": options.quick,
    }
    return BenchmarkResult(name, task.unit, shared | work_facts, results[0], results[1], agreement, own)


def _yardstick_of(side: SideProcess, console: Console) -> dict[str, Any]:
    """What a side measures of the machine; nothing where it fails, for its rounds are measured by then."""
    try:
        return side.ask("yardstick").get("facts", {})
    except (ValueError, TooLittleMemoryError) as error:
        console.print(f"{side.name}: the machine's own speed is not known ({error})", highlight=False)
        return {}


def make_side(options: BenchmarkOptions, work: Path, name: str, command: Sequence[str]) -> SideProcess:
    """A side's process, not started yet."""
    environment = side_environment(os.environ, options, keeps_path=name == OURS)
    log = work / f"{name}.stderr"
    return SideProcess(name, command, timeout=options.timeout, log=log, environment=environment)


def tune_peer(
    options: BenchmarkOptions,
    settings: dict[str, Any],
    sizes: Sequence[int],
    command: Sequence[str],
    work: Path,
    console: Console,
) -> dict[int, float]:
    """Finds the peer's fastest micro-batch and puts it into the settings; see `fastest_batch`."""

    def show(size: int, done: Round | None) -> None:
        outcome = "left out, it finds no room" if done is None else f"{done.seconds:.3g} s"
        console.print(f"{options.peer}: micro-batch {size}, {outcome}", highlight=False)

    start = functools.partial(make_side, options, work, options.peer, command)
    return fastest_batch(settings, sizes, work, options.dtype, start, show)
