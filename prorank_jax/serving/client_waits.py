"""How long the server waits for clients to send or to read; when it must leave, for none of them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ClientWaits:
    """All waits for clients that go on; used in one event loop."""

    def __init__(self) -> None:
        self.are_over = False
        self._running: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def at_most(self, seconds: float | None) -> AsyncIterator[None]:
        """A context for one of them.

        Args:
            seconds: None: as long as the server is there.

        Raises:
            TimeoutError: it took longer, or the server must leave.
        """
        async with asyncio.timeout(0 if self.are_over else seconds) as wait:
            self._running.add(wait)
            try:
                yield
            finally:
                self._running.discard(wait)

    def end(self) -> None:
        """Ends them, and any that would begin."""
        self.are_over = True
        now = asyncio.get_running_loop().time()
        for wait in self._running:
            if not wait.expired():
                wait.reschedule(now)
