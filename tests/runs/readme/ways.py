"""How each kind of command is run, or checked as far as it can be where its machine is not there."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from prorank_jax.command_line import CommandParser
from tests.cpu.tiny_run import REPOSITORY
from tests.runs.fake_cloud import FakeCloud
from tests.runs.readme.commands import Command, shell_commands
from tests.runs.readme.curl import ask_with_curl
from tests.runs.readme.markdown import Block
from tests.runs.readme.programs import SERVER, check_accepted, help_of, program_of
from tests.runs.readme.real_runs import FINISHED, Place, run_here, run_server

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PODS = "launch/tpu_pod.sh"
# `-- ARGS` of the launcher for pods.
TRAINING = ["--stage", "1", "--config", "configs/stage1.yaml", "--output_dir", "gs://BUCKET/run"]
# What of that launcher hands its arguments on.
TRAINS = ("run", "train", "benchmark")
# Compiling for TPU takes minutes (tests/tpu does it), and a benchmark needs its peers (tests/peers).
ONLY_READ = ("aot_compile", "aot_table", "benchmark")


class Way(NamedTuple):
    """A kind of command.

    Attributes:
        claims: whether a command is of this kind.
        run: fails the test if the command does not work.
    """

    claims: Callable[[Command], bool]
    run: Callable[[Command, Place], None]


def _is_program(command: Command, names: tuple[str, ...]) -> bool:
    found = program_of(command.words)
    return found is not None and found[0] in names and (bool(found[1]) or found[0] == "aot_table")


def _run_for_real(command: Command, place: Place) -> None:
    """All variants must be accepted, the fullest is run."""
    _read_only(command, place)
    name, arguments = program_of(command.variants[-1]) or ("", [])
    (run_server if name == SERVER else run_here)(name, place.prepare(arguments), place)


def _read_only(command: Command, place: Place) -> None:
    for words in command.variants:
        name, arguments = program_of(words) or ("", [])
        check_accepted(name, place.prepare(arguments), place.capsys)


def _only_names_a_program(command: Command) -> bool:
    found = program_of(command.words)
    return found is not None and not found[1] and found[0] != "aot_table"


def _ask_for_help(command: Command, place: Place) -> None:
    name, _ = program_of(command.words) or ("", [])
    assert "usage: " in help_of(name, place.capsys)


def _run_for_pods(command: Command, place: Place) -> None:
    """A dry run: what it prints is pasted in tests/runs/test_tpu_pod.py."""
    _, verb, *rest = command.words
    at = rest.index("--") if "--" in rest else len(rest)
    training = TRAINING if rest[at + 1 :] == ["ARGS"] else rest[at + 1 :]
    if verb in TRAINS:
        check_accepted("tpu_train", place.prepare(training), place.capsys)
    cloud = FakeCloud(place.new_folder("pod"))
    cloud.make_checkout()
    # Not the cloud's own way to start it, which forks: this process has the threads of jax.
    done = subprocess.run(
        [PODS, verb, "--env", cloud.settings, "--dry-run", *rest[:at], "--", *training],
        cwd=cloud.checkout,
        env=cloud.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "gcloud " in done.stdout
    assert all(word in done.stdout for word in training)
    assert cloud.calls() == []


def _run_make(command: Command, place: Place) -> None:
    """`make` itself says what it would do, and each program in that must be accepted."""
    done = subprocess.run(
        ["make", "--dry-run", *command.words[1:]],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},  # not what a make that runs the tests tells its children
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = shell_commands(Block(done.stdout, 1, ""))
    assert printed, "make would do nothing"
    for one in printed:
        if program_of(one.words):
            _read_only(one, place)


def _is_pytest(command: Command) -> bool:
    return command.words[0] == "pytest" or command.words[1:3] == ["-m", "pytest"]


def _check_pip(command: Command, _: Place) -> None:
    """Files must be there, and extras be those of pyproject.toml."""
    parser = CommandParser(prog="pip install")
    parser.add_argument("packages", nargs="*")
    parser.add_argument("-r", type=Path, dest="files", action="append", default=[])
    parser.add_argument("-e", dest="here", action="append", default=[])
    parser.add_argument("--no-deps", action="store_true")
    given: argparse.Namespace = parser.parse_args(command.words[2:])
    targets = [*given.here, *given.packages]
    assert given.files or targets, "nothing to install"
    assert [str(file) for file in given.files if not (REPOSITORY / file).is_file()] == []
    for target in targets:
        name, _, extras = target.removesuffix("]").partition("[")
        assert name in (".", PROJECT["name"])
        assert {extra for extra in extras.split(",") if extra} <= set(PROJECT["optional-dependencies"])


def _check_pytest(command: Command, _: Place) -> None:
    """A pytest of its own reads the options and lists its markers; tests that run tests would not end."""
    words = command.words[command.words.index("pytest") + 1 :]
    for word in words:
        if word.startswith("tests"):
            assert (REPOSITORY / word).exists(), word
    program = [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", *words, "--markers"]
    done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _check_clone(command: Command, _: Place) -> None:
    """Where it is cloned from is not known here; what `cd` enters is named as the project is."""
    if command.words[0] == "cd":
        assert command.words[1:] == [PROJECT["name"]]
    else:
        assert re.fullmatch(r"git clone (<[\w ]+>|https://\S+)", command.text)


WAYS = {
    "a program of this repository, run here": Way(
        lambda command: _is_program(command, (*FINISHED, SERVER)), _run_for_real
    ),
    "a program whose machine or peers are not here, as far as its work begins": Way(
        lambda command: _is_program(command, ONLY_READ), _read_only
    ),
    "a program that is only named, asked for its help": Way(_only_names_a_program, _ask_for_help),
    "the launcher for pods, as a dry run": Way(lambda command: command.words[0] == PODS, _run_for_pods),
    "make, as a dry run": Way(lambda command: command.words[0] == "make", _run_make),
    "pip install, its files and extras": Way(
        lambda command: command.words[:2] == ["pip", "install"], _check_pip
    ),
    "pytest, its options": Way(_is_pytest, _check_pytest),
    "curl, to a server of the tests": Way(lambda command: command.words[0] == "curl", ask_with_curl),
    "getting the code": Way(
        lambda command: command.words[0] == "cd" or command.words[:2] == ["git", "clone"], _check_clone
    ),
}


def ways_of(command: Command) -> list[str]:
    """The names of the ways that claim a command: exactly one, or the pages and this module disagree."""
    return [name for name, way in WAYS.items() if way.claims(command)]
