"""Pieces of messages."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console

EXAMPLES_NAMED = 3


def name_a_few(ids: Collection[str]) -> str:
    """`'a', 'b', 'c' and 4 more`: the start of a list of ids in their order, for messages."""
    ordered = sorted(ids)
    shown = ", ".join(repr(identifier) for identifier in ordered[:EXAMPLES_NAMED])
    rest = len(ordered) - EXAMPLES_NAMED
    return f"{shown} and {rest} more" if rest > 0 else shown


def install_extra(name: str) -> str:
    """`run pip install -e '.[serve]' in the checkout`: prorank-jax is on no package index."""
    return f"run pip install -e '.[{name}]' in the checkout"


def without_folders(name: str) -> str:
    """The last part of a path: where it lies on the machine that wrote it tells a reader nothing."""
    return Path(name).name if name.startswith(("/", "~", "./", "../")) else name


def say(console: Console, text: str) -> None:
    """Prints a text as it is: brackets are no markup, `:train:` no picture, and a long path stays whole."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)
