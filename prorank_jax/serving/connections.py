"""Connections that cannot be held open for ever: uvicorn's protocol with limits on a client's time.

uvicorn bounds the idle time after an answer. It does not bound how long the head of a request, or the rest
of a body that was refused, may take to arrive, nor how long a client may take to read its answer. Above
its `limit_concurrency` it answers 503 in words of its own, but it keeps any number of connections that say
nothing.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection when the client takes longer than `client_timeout_s`.

    Of more than `most_connections` at once, the newest are closed before they have said anything.
    """

    client_timeout_s = 20.0
    most_connections = 2048

    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _is_behind = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
        else:
            self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Takes a piece of a request; the time it may take runs from its first piece on."""
        super().data_received(data)
        if self._is_idle():
            # The rest of a body that was refused: uvicorn ended its own timer when it came.
            self._cancel_head_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._watch_head()

    def on_response_complete(self) -> None:
        """The answer is written, perhaps not yet sent."""
        super().on_response_complete()
        self._is_behind = False
        self._cancel_answer_timer()
        if self.transport.get_write_buffer_size():
            self._answer_timer = self.loop.call_later(self.client_timeout_s, self._abort_unread)

    def pause_writing(self) -> None:
        """The client is behind in reading its answer; its time runs from the first such moment on."""
        super().pause_writing()
        if not self._is_behind:
            self._is_behind = True
            self._cancel_answer_timer()
            self._answer_timer = self.loop.call_later(self.client_timeout_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The timers go with their connection."""
        self._cancel_head_timer()
        self._cancel_answer_timer()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _is_idle(self) -> bool:
        """Whether a request was answered and read to its end, and no next one has begun."""
        has_answered = self.cycle is not None and self.cycle.response_complete
        is_read = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        return has_answered and is_read and not self.transport.is_closing()

    def _watch_head(self) -> None:
        if not self._is_between_requests():
            self._cancel_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.client_timeout_s, self._close_unfinished)

    def _close_unfinished(self) -> None:
        self._head_timer = None
        if self._is_between_requests():
            self.transport.close()

    def _abort_unread(self) -> None:
        self._answer_timer = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None


def timed_protocol(client_timeout_s: float, most_connections: int) -> type[TimedProtocol]:
    """The protocol with given limits, as the class that uvicorn asks for."""
    limits = {"client_timeout_s": client_timeout_s, "most_connections": most_connections}
    return type("TimedProtocol", (TimedProtocol,), limits)
