"""The programs of this repository: called in this process, or only as far as their own work begins."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from prorank_jax import server
from tests.cpu.tiny_run import load_launcher

SERVER = "prorank_jax.server"
# Where each program has read and checked its command line, and begins to work.
WORK = {
    "aot_compile": ["prorank_jax.aot.command.run_aot"],
    "aot_table": ["prorank_jax.aot.compile_table.compile_all"],
    "benchmark": [
        "prorank_jax.benchmarks.command.run_comparison",
        "prorank_jax.benchmarks.growth.measure",
        "prorank_jax.benchmarks.profile.profile_step",
    ],
    "compare": ["prorank_jax.compare.compare_models"],
    "evaluate": ["prorank_jax.evaluate.evaluate"],
    "export_hf": ["prorank_jax.export_folder.export_folder"],
    "load_server": [],  # its own name for `run_load`
    "probe": ["prorank_jax.model_probe.probe_model"],
    "reproduce": ["prorank_jax.reproduce.command.reproduce"],
    "tpu_train": ["prorank_jax.train.train", "prorank_jax.setup.check_later_run"],
    "training_pairs": ["prorank_jax.training_pairs.write_training_pairs"],
    SERVER: ["prorank_jax.server.run"],
}


class Accepted(Exception):  # noqa: N818 - no error: the command line was read
    """Raised in place of a program's work."""


def _accept(*_: object, **__: object) -> None:
    raise Accepted


@functools.cache
def program(name: str) -> ModuleType:
    """A launcher by the name of its file, or the server; either has a `main`."""
    return server if name == SERVER else load_launcher(name)


def program_of(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """Which program a command line runs, and its arguments; None if it is none of this repository.

    Python may be any `python` with or without a path, and a launcher may be called without it.
    """
    rest = list(words)
    if Path(rest[0]).name.startswith("python"):
        rest = rest[2:] if rest[1:2] == ["-m"] else rest[1:]
    elif not rest[0].startswith("launch/"):
        return None
    if rest[:1] == [SERVER]:
        return SERVER, rest[1:]
    launcher = re.fullmatch(r"launch/(\w+)\.py", rest[0]) if rest else None
    return (launcher[1], rest[1:]) if launcher else None


def call(name: str, arguments: Sequence[str]) -> int:
    """Runs a program to its end; returns its exit code."""
    return program(name).main(list(arguments))


def check_accepted(name: str, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Fails with the program's own words unless its command line leads to its work."""
    with pytest.MonkeyPatch.context() as patch:
        # It refuses a process that has jax already, and looks for libtpu; neither is in the command line.
        patch.setattr("prorank_jax.aot.environment.prepare_environment", lambda _: None)
        for place in WORK[name]:
            patch.setattr(place, _accept)
        if name == "load_server":
            patch.setattr(program(name), "run_load", _accept)
        capsys.readouterr()
        try:
            code = call(name, arguments)
        except Accepted:
            return
    said = capsys.readouterr()
    pytest.fail(f"{name} {' '.join(arguments)}: exit code {code}; {said.err or said.out}")


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a program says of itself and of its subcommands."""
    capsys.readouterr()
    said = _help(name, [], capsys)
    tasks = re.search(r"\{([\w,]+)\}", said) if name == "benchmark" else None
    return said + "".join(_help(name, [task], capsys) for task in (tasks[1].split(",") if tasks else []))


def _help(name: str, before: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        assert call(name, [*before, "--help"]) == 0
    except SystemExit as ended:  # argparse's way
        if ended.code:
            raise
    return capsys.readouterr().out
