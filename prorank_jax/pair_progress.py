"""How far the scoring of many pairs has come, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

# From so many pairs on, a terminal shows progress.
LONG_LIST = 256


@contextmanager
def pair_progress(pairs: int, wanted: bool | None) -> Iterator[Callable[[int], None] | None]:
    """A bar on the terminal's error stream; yields what tells it of scored pairs, or None without a bar.

    Args:
        pairs: how many will be scored.
        wanted: None: for a long list, where there is a terminal.
    """
    console = Console(stderr=True)
    if not (console.is_terminal and pairs >= LONG_LIST if wanted is None else wanted):
        yield None
        return
    with Progress(console=console, transient=console.is_terminal) as bar:
        task = bar.add_task("scoring pairs", total=pairs)
        yield lambda scored: bar.advance(task, scored)
