"""Runs a service on a socket until SIGTERM or SIGINT, and leaves nothing unanswered."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from prorank_jax.serving.app import make_app
from prorank_jax.serving.connections import timed_protocol
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.service import LoadModel, Service

BACKLOG = 1024
# The app answers 503 while there are more than `max_connections`; so many times as many are kept at all.
SILENT_FACTOR = 2
# For the model, its libraries and the listener.
OTHER_FILES = 256
THREAD_END_S = 1.0


class RerankServer(uvicorn.Server):
    """One service on uvicorn; made inside a running event loop. `should_exit = True` drains it."""

    def __init__(self, options: ServerOptions, load: LoadModel, announce: Callable[[], None]) -> None:
        """`announce` is called when the model that `load` gives is ready."""
        self._service = Service(options)
        self._load = load
        self._announce = announce
        self._drain_delay_s = options.drain_delay_s
        self._leaves_at = math.inf
        self._is_hurried = False
        self._is_closing = False
        most_connections = SILENT_FACTOR * options.max_connections
        config = uvicorn.Config(
            make_app(self._service, lambda: len(self.server_state.connections)),
            http=timed_protocol(options.client_timeout_s, most_connections),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,  # uvicorn's own would close the handlers of other libraries
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=most_connections + 1,  # says 503 in its own words; the app comes first
            backlog=BACKLOG,
            timeout_keep_alive=options.keep_alive_s,  # type: ignore[arg-type]  # it may be any number
            timeout_graceful_shutdown=math.ceil(options.shutdown_timeout_s),
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """`serve` has them: uvicorn would miss an early one, and raise each once more at its end."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM leaves balancers their time; Ctrl-C, or a second signal, does not."""
        waits_for_balancers = self.should_exit and not self._is_closing
        self._is_hurried = self._is_hurried or self.should_exit or sig == signal.SIGINT
        if not waits_for_balancers:  # else uvicorn would take a Ctrl-C for a second one, and answer nobody
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's clock, ten times a second: whether it is time to shut down.

        A balancer learns from /health that this server leaves. Were the listener closed at once, what the
        balancer sends until then would be refused.
        """
        if not await super().on_tick(counter):
            return False
        now = asyncio.get_running_loop().time()
        if self._leaves_at == math.inf:
            was_ready = self._service.state != "loading"  # before that, no balancer sends anything
            self._leaves_at = now + (self._drain_delay_s if was_ready else 0)
            self._service.leave()
        return self._is_hurried or now >= self._leaves_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no further connection or request, answers what was accepted, ends."""
        self._is_closing = True
        self._service.drain()
        await super().shutdown(sockets)

    async def run_on(self, listener: socket.socket) -> bool:
        """Loads the model and serves until told to stop.

        Returns:
            Whether the model's thread has ended; if not, only `os._exit` leaves without waiting for it.

        Raises:
            Exception: what loading raised.
        """
        scoring = asyncio.create_task(self._service.run(self._load, self._announce))
        scoring.add_done_callback(self._stop_if_failed)
        await self.serve(sockets=[listener])
        if scoring.done():
            await scoring  # raises what loading raised
        else:
            scoring.cancel()  # it still loads, or the last batch outlasted the time to shut down
            await asyncio.wait({scoring})
        return await asyncio.to_thread(self._service.stop_thread, THREAD_END_S)

    def _stop_if_failed(self, scoring: asyncio.Task[None]) -> None:
        if not scoring.cancelled() and scoring.exception() is not None:
            self.should_exit = self._is_hurried = True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ValueError: the address is taken or not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"host={host!r}, port={port}: cannot listen there ({reason}); name another --port or --host"
        ) from error


def address_of(listener: socket.socket) -> str:
    """`http://127.0.0.1:8080` of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach a listening socket."""
    return ipaddress.ip_address(listener.getsockname()[0].split("%")[0]).is_loopback


def serve(
    options: ServerOptions, listener: socket.socket, load: LoadModel, announce: Callable[[], None]
) -> bool:
    """`RerankServer.run_on` in an event loop of its own, until SIGTERM or SIGINT."""
    _allow_open_files(SILENT_FACTOR * options.max_connections + OTHER_FILES)
    with _signals_noted() as noted:

        async def run() -> bool:
            server = RerankServer(options, load, announce)
            noted.tell(server)
            return await server.run_on(listener)

        return asyncio.run(run())


def _allow_open_files(wanted: int) -> None:
    """Raises this process's limit as far as it may: 1024, a common one, is too few for the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class _Signals:
    """Keeps a signal until there is a server to obey it."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._server: RerankServer | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if self._server:
            self._server.handle_exit(number, frame)

    def tell(self, server: RerankServer) -> None:
        self._server = server
        if self._received:
            server.should_exit = True


@contextmanager
def _signals_noted() -> Iterator[_Signals]:
    signals = _Signals()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signals.receive) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
