"""What every program does on a command line: complaints on one line, and the exit codes."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from prorank_jax.launching import EXIT_INTERRUPTED, end, leave_at_once
from prorank_jax.machine import skip_absent_tpu
from prorank_jax.source_names import is_url


class CommandParser(argparse.ArgumentParser):
    """argparse without abbreviations, whose complaints are ValueErrors: `run_command` shows them."""

    def __init__(self, **options: Any) -> None:
        """Takes what `argparse.ArgumentParser` takes."""
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises a ValueError."""
        raise ValueError(f"{message}; --help shows the usage")


def add_fields(parser: argparse.ArgumentParser, options: type) -> None:
    """Adds an option for each field of a dataclass; `meaning` in its metadata is the help."""
    hints = typing.get_type_hints(options)
    for item in dataclasses.fields(options):
        types = typing.get_args(hints[item.name]) or (hints[item.name],)
        is_required = item.default is dataclasses.MISSING
        parser.add_argument(
            f"--{item.name}",
            type=types[0],
            required=is_required,
            default=argparse.SUPPRESS if is_required else item.default,
            help=item.metadata["meaning"],
        )


def take_option(name: str, value: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of an option beside the fields of a config, else None; and all other arguments.

    Args:
        name: as `--data_folder`; its value is the next argument, or stands behind `=`.
        value: what it stands for, for messages.

    Raises:
        ValueError: it has no value.
    """
    # No other option is split: it belongs to the config.
    parts = [part for text in arguments for part in text.split("=", int(text.startswith(f"{name}=")))]
    if name not in parts:
        return None, parts
    at = parts.index(name)
    taken = "".join(parts[at + 1 : at + 2])
    if not taken:
        raise ValueError(f"command line: {name} has no value; write {name} {value}")
    return taken, parts[:at] + parts[at + 2 :]


def local_folder(text: str) -> Path:
    """The type of an option whose folder must be on this machine.

    Raises:
        argparse.ArgumentTypeError: a URL, of which a path would silently make a folder with a colon.
    """
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a URL; name a folder on this machine")
    return Path(text)


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    After Ctrl-C at once: Python's own way out ends in a segmentation fault while XLA still compiles.
    """
    if code == EXIT_INTERRUPTED:
        leave_at_once(code)
    sys.exit(code)


def run_command(command: Callable[[], int | None], *, interrupted: str = "") -> int:
    """Runs a program; returns its exit code: its own, or what `launching.end` says of an error.

    Args:
        command: reads its arguments and works; None stands for 0. Its ValueErrors and OSErrors are bad
            input, or a place out of reach, and become one line on stderr; anything else is a fault of the
            program and goes through.
        interrupted: what Ctrl-C left behind and how to go on, for stderr.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed
    skip_absent_tpu()
    try:
        return command() or 0
    except BaseException as error:
        return end(error, interrupted)
