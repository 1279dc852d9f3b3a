"""Shows how far the scoring is: pairs, pairs a second, time left."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prorank_jax.messages import say

SECONDS_BETWEEN_LINES = 30.0


class ScoringProgress:
    """A progress bar over pairs; a line now and then where there is no terminal. A context manager."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        """Begins at 0 of `total` pairs."""
        self._console = console
        self._title = title
        self._total = total
        self._done = self._resumed = 0
        self._start = self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn(title, markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("pairs, {task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("score", total=total, speed="starting")

    def __enter__(self) -> ScoringProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def resume(self, pairs: int) -> None:
        """Counts pairs that were scored before; they say nothing about the speed."""
        self._resumed += pairs
        self._done += pairs
        self._progress.update(self._task, completed=self._done)

    def advance(self, pairs: int) -> None:
        """Counts pairs that were scored."""
        self._done += pairs
        now = time.monotonic()
        speed = (self._done - self._resumed) / max(now - self._start, 1e-9)
        self._progress.update(self._task, completed=self._done, speed=f"{speed:.1f} pairs/s")
        if self._console.is_terminal or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        left = (self._total - self._done) / max(speed, 1e-9)
        say(
            self._console,
            f"{self._title}: {self._done}/{self._total} pairs, {speed:.1f} pairs/s, {left / 60:.1f} min left",
        )
