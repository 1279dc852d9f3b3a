"""SIGTERM, the notice that a preempted machine gets: finish the step, save, leave."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):  # noqa: N818 - an order to stop is no error
    """A SIGTERM was obeyed: the state is saved and the run can be resumed."""


@contextmanager
def sigterm_noticed() -> Iterator[list[int]]:
    """A list that SIGTERM makes non-empty, so that a preempted run can save its state and leave."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
