"""Results of work that others do, in order, while a little more of it is on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def results_ahead(submitted: Iterable[Future[Result]], ahead: int) -> Iterator[Result]:
    """The results in the order of the futures, of which up to `ahead` more are taken before one is given.

    Args:
        submitted: starts a piece of work each time one is taken.
    """
    waiting: deque[Future[Result]] = deque()
    for future in submitted:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
