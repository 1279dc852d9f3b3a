"""The fastest of a few sizes for a peer, found before anything is measured. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

# One that takes so much longer than the best so far ends the search: still larger ones pad more.
_SLOWER = 1.1


def fastest(
    sizes: Sequence[int],
    run: Callable[[int], object],
    *,
    repeats: int = 1,
    no_room: tuple[type[BaseException], ...] = (),
) -> tuple[int, dict[str, float]]:
    """The size whose run takes the least time, and the seconds of each that was tried.

    Args:
        sizes: ascending.
        run: returns when what it began is done.
        repeats: of each size; the fastest counts. With more than one, each is run once before, as a GPU
            needs it: kernels of a new shape are loaded then, and memory is set aside. Else only the first.
        no_room: what `run` raises where a size finds no memory, which ends the search.

    Raises:
        BaseException: of `no_room`, by the first size.
    """
    seconds: dict[str, float] = {}
    for size in sizes:
        try:
            if repeats > 1 or not seconds:
                run(size)
            seconds[str(size)] = min(_seconds_of(run, size) for _ in range(repeats))
        except no_room:
            if not seconds:
                raise
            break
        if seconds[str(size)] > _SLOWER * min(seconds.values()):
            break
    return int(min(seconds, key=lambda size: seconds[size])), seconds


def _seconds_of(run: Callable[[int], object], size: int) -> float:
    started = time.perf_counter()
    run(size)
    return time.perf_counter() - started
