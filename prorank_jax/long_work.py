"""Shows how far a long loop over many items is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

SECONDS_BETWEEN_LINES = 30.0

Item = TypeVar("Item")


def tracked(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """The items, in their order; says on the error stream how many of `total` are done.

    A terminal gets a bar that goes away at the end. Elsewhere, as in the log of a pod, there is a line with
    the time left after each half minute: nothing is said of what takes less.
    """
    if sys.stderr.isatty():
        yield from track(items, title, total=total, transient=True, console=Console(stderr=True))
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) / max(done, 1) * (total - done)
            print(f"{title}: {done}/{total}, {left / 60:.1f} min left", file=sys.stderr, flush=True)
        yield item
