"""A server on a free port of this process, with a model whose every score can be told from its pair."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prorank_jax.input_checks import Pair
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.process import RerankServer, address_of, bind

JSON = {"Content-Type": "application/json"}


def fake_score(query: str, document: str, instruction: str | None = None) -> float:
    """From -8 to 8, another one for every text."""
    crc = zlib.crc32(f"{instruction}\0{query}\0{document}".encode())
    return float(np.float32(crc / 2**28 - 8))


@dataclass
class FakeModel:
    """Scores as `fake_score`, but only while `gate` is open; notes every batch it was given."""

    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[Pair]] = field(default_factory=list)
    is_lost: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, pairs: list[Pair], instruction: str | None) -> np.ndarray:
        self.batches.append(list(pairs))
        assert self.gate.wait(30)
        if self.is_lost:
            raise RuntimeError("device lost at /srv/team/run7")
        if any(document == "break" for _, document in pairs):
            raise RuntimeError("the device\nran out of memory")
        if any(document == "leave" for _, document in pairs):
            raise SystemExit("a model must not end the server")
        scores = [fake_score(query, document, instruction) for query, document in pairs]
        return np.array(
            [
                np.nan if document == "nan" else score
                for (_, document), score in zip(pairs, scores, strict=True)
            ],
            np.float32,
        )

    @property
    def scored(self) -> list[Pair]:
        """Every pair it was given."""
        return [pair for batch in self.batches for pair in batch]


@dataclass
class Answer:
    """What came back: status, headers and the content, as JSON where it is."""

    status: int
    headers: http.client.HTTPMessage
    content: Any


@dataclass
class LiveServer:
    """A server that runs in a thread."""

    server: RerankServer
    model: FakeModel
    port: int
    address: str
    thread: threading.Thread

    def connect(self, timeout_s: float = 30.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            return read_answer(connection)
        finally:
            connection.close()

    def rerank(self, request: Any, path: str = "/rerank") -> Answer:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self.ask("POST", path, body, JSON)

    def metric(self, name: str) -> float:
        """The value of a sample, e.g. `prorank_requests_total{status="200"}`; 0 where there is none."""
        lines = self.ask("GET", "/metrics").content.splitlines()
        return next(
            (float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0
        )

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(data)
        return connection

    def slow_reader(self, data: bytes) -> socket.socket:
        """`raw`, with little room for an answer: what is not read, is not sent."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(data)
        return connection

    def stop(self) -> None:
        self.server.should_exit = True


def read_answer(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    body = response.read().decode()
    is_json = response.headers.get_content_type() == "application/json"
    return Answer(response.status, response.headers, json.loads(body) if is_json else body)


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


@contextmanager
def live_server(model: FakeModel | None = None, **options: Any) -> Iterator[LiveServer]:
    """Yields a server that is ready; at the end it is drained and must have ended."""
    model = model or FakeModel()
    listener = bind("127.0.0.1", 0)
    made: list[RerankServer] = []
    ready = threading.Event()

    async def run() -> None:
        server = RerankServer(ServerOptions(model="fake", **options), lambda: model, ready.set)
        made.append(server)
        assert await server.run_on(listener)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(10)
    address = address_of(listener)
    live = LiveServer(made[0], model, listener.getsockname()[1], address, thread)
    try:
        yield live
    finally:
        model.gate.set()
        live.stop()
        thread.join(20)
        assert not thread.is_alive()


def head(length: int, extra: str = "") -> bytes:
    """The head of a rerank request with a body of so many bytes."""
    return (
        "POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{extra}\r\n"
    ).encode()
