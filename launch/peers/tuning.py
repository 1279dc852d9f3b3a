"""The fastest of a few settings of a peer, found before anything is measured. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def fastest(choices: Sequence[int], run: Callable[[int], object]) -> tuple[int, dict[str, float]]:
    """The choice whose run takes the least time, and the seconds of each; one run more comes first."""
    run(choices[0])
    seconds = {}
    for choice in choices:
        started = time.perf_counter()
        run(choice)
        seconds[str(choice)] = time.perf_counter() - started
    return min(choices, key=lambda choice: seconds[str(choice)]), seconds
