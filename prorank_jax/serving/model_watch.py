"""Tells a model that fails or hangs from requests that it cannot score, and says in the log what happened."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from prorank_jax.serving.errors import one_line

RETRY_S = 1.0
# A lost device fails every batch: the same traceback again and again would bury the rest of the log.
TRACEBACKS_IN_A_ROW = 3

_log = logging.getLogger(__name__)


class ModelWatch:
    """Whether the model works: after a batch that failed, a pair of nobody's is tried until it is scored.

    One that raises nothing may still never come to an end, as where a device hangs: it is failing then too.

    Failures alone do not tell: one client's texts, too long for the memory, must not take a server out of
    service that scores all others. And without requests, none would show that the model works again.
    """

    def __init__(self, try_model: Callable[[], Awaitable[None]], longest_batch_s: float = math.inf) -> None:
        """
        Args:
            try_model: scores a pair that a model that works can score, and raises where it cannot.
            longest_batch_s: what takes longer hangs.
        """
        self._try_model = try_model
        self._longest_batch_s = longest_batch_s
        self._fails = False
        self._hanging = 0
        self._is_in_doubt = asyncio.Event()
        self._failed_in_a_row = 0

    @property
    def is_failing(self) -> bool:
        """Whether the model raises for any pair, or hangs."""
        return self._fails or self._hanging > 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around the wait for what the model was given."""
        is_late, is_answered = False, True

        def note_hang() -> None:
            nonlocal is_late
            is_late = True
            self._hanging += 1
            told = "the model has not answered for %g s: /health and /live are 503 until it does"
            _log.error(told, self._longest_batch_s)

        timer = asyncio.get_running_loop().call_later(self._longest_batch_s, note_hang)
        try:
            yield
        except asyncio.CancelledError:  # nobody waits any more
            is_answered = False
            raise
        finally:
            timer.cancel()
            self._hanging -= is_late
            if is_late and is_answered:
                _log.warning("the model answers again")

    def note_failure(self, pairs: int, error: Exception) -> None:
        """So many pairs were given to the model, which did not score them."""
        self._failed_in_a_row += 1
        is_traced = self._failed_in_a_row <= TRACEBACKS_IN_A_ROW
        traced = error if is_traced else None
        _log.error("the model could not score %d pairs (%s)", pairs, one_line(error), exc_info=traced)
        self._is_in_doubt.set()

    def note_success(self) -> None:
        """A batch was scored."""
        self._failed_in_a_row = 0

    async def run(self) -> None:
        """Tries the model whenever it is in doubt, until it is cancelled."""
        while True:
            await self._is_in_doubt.wait()
            self._is_in_doubt.clear()
            await self._try_until_it_works()

    async def _try_until_it_works(self) -> None:
        while (error := await self._fault()) is not None:
            if not self._fails:
                _log.error("the model fails: /health and /live are 503 until it works (%s)", one_line(error))
            self._fails = True
            await asyncio.sleep(RETRY_S)
        if self._fails:
            _log.warning("the model works again")
        self._fails = False
        self._failed_in_a_row = 0  # what fails next is something else

    async def _fault(self) -> Exception | None:
        try:
            await self._try_model()
        except Exception as error:
            return error
        return None
