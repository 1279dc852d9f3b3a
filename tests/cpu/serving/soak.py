"""Clients of all kinds at once against a server process: who must be answered is, once, and memory stays.

Each client knows what it must get. The server's own counts are compared with what was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.cpu.serving.live import fake_score, head
from tests.cpu.tiny_run import REPOSITORY

CLIENT_SECONDS = 5.0
"""`client_timeout_s` of the server: slow clients stay far below it, or never come to an end."""
PATIENCE_SECONDS = 120.0
MAX_BODY = 200_000
HARMLESS = ("whole", "whole", "whole", "whole", "kept", "pipelined", "chunked", "slow_body", "slow_head")
HARMFUL = (
    *("wrong_type", "wrong_json", "wrong_field", "too_large", "too_large_chunked", "no_http", "huge_head"),
    *("half_head", "half_body", "leaves_waiting", "leaves_in_answer"),
)
STALLED = ("stalled_head", "stalled_body", "reads_nothing")


@dataclass
class Tally:
    """What was asked and what came.

    Attributes:
        sent: rerank requests whose head was whole.
        answers: statuses of answers that were read to their end.
        maybe: requests of clients that left: the server may count 499 or what it had answered.
        memory_kib: of the server, at each look.
    """

    sent: int = 0
    maybe: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    memory_kib: list[int] = field(default_factory=list)


class Refused(Exception):  # noqa: N818 - a server that is told to stop makes no error
    """The server is shutting down."""


class Client:
    """One connection at a time to a server; every wait has an end."""

    def __init__(self, address: str, tally: Tally, seed: int) -> None:
        parts = urlsplit(address)
        self._host, self._port = parts.hostname, parts.port
        self._tally = tally
        self._rng = random.Random(seed)
        self._numbers = iter(range(10**9))
        self._seed = seed

    async def act(self, kind: str) -> None:
        """Behaves as a client of a kind, and checks what it gets."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await getattr(self, f"_{kind}")()

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is not read, is not sent
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (self._host, self._port))
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()  # no time-out of ours may wait for the server

    def _request(self, documents: int = 3) -> tuple[str, list[str], bytes]:
        """Query, texts and body; no other request has the same, so that no other's answer fits."""
        query = f"q{self._seed}-{next(self._numbers)}"
        texts = [f"{query} d{place} {self._rng.random()}" for place in range(documents)]
        return query, texts, json.dumps({"query": query, "texts": texts, "raw_scores": True}).encode()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next(
            int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length")
        )
        status, body = int(lines[0].split()[1]), await reader.readexactly(length)
        self._tally.answers[status] += 1
        return status, body

    async def _expect(self, reader: asyncio.StreamReader, query: str, texts: list[str]) -> None:
        status, body = await self._read(reader)
        if status == 503 and b"shutting down" in body:
            raise Refused
        assert status == 200, body
        scores = {result["index"]: result["score"] for result in json.loads(body)}
        assert scores == {place: fake_score(query, text) for place, text in enumerate(texts)}

    async def _expect_no_more(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """After the last answer there is nothing but the end: none is answered twice."""
        writer.write_eof()
        assert await reader.read() == b""

    async def _ask(self, data: list[bytes], query: str, texts: list[str], pause_s: float = 0.0) -> None:
        """One request, sent in pieces, and its one answer."""
        async with self._open() as (reader, writer):
            self._tally.sent += 1
            for piece in data:
                writer.write(piece)
                await asyncio.sleep(pause_s)
            await self._expect(reader, query, texts)
            await self._expect_no_more(reader, writer)

    async def _whole(self) -> None:
        query, texts, body = self._request()
        await self._ask([head(len(body)) + body], query, texts)

    async def _send_slowly(self, from_body: bool) -> None:
        query, texts, body = self._request()
        data = head(len(body)) + body
        first = len(data) - len(body) if from_body else 1
        cuts = sorted(self._rng.sample(range(first, len(data)), 8))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        await self._ask(pieces, query, texts, pause_s=0.02)

    async def _slow_body(self) -> None:
        await self._send_slowly(True)

    async def _slow_head(self) -> None:
        await self._send_slowly(False)

    async def _kept(self) -> None:
        async with self._open() as (reader, writer):
            for _ in range(4):
                query, texts, body = self._request()
                self._tally.sent += 1
                writer.write(head(len(body)) + body)
                await self._expect(reader, query, texts)
            await self._expect_no_more(reader, writer)

    async def _pipelined(self) -> None:
        asked = [self._request() for _ in range(4)]
        async with self._open() as (reader, writer):
            self._tally.sent += len(asked)
            writer.write(b"".join(head(len(body)) + body for _, _, body in asked))
            for query, texts, _ in asked:
                await self._expect(reader, query, texts)
            await self._expect_no_more(reader, writer)

    async def _chunked(self) -> None:
        query, texts, body = self._request()
        chunks = [_chunk(body[i : i + 2]) for i in range(0, len(body), 2)]
        await self._ask([b"".join([_chunked_head(), *chunks, _chunk(b"")])], query, texts)

    async def _refused(self, data: bytes, status: int) -> None:
        async with self._open() as (reader, writer):
            self._tally.sent += 1
            writer.write(data)
            found, body = await self._read(reader)
            assert found == status, body

    async def _wrong_type(self) -> None:
        await self._refused(head(2).replace(b"/json", b"/xml") + b"{}", 415)

    async def _wrong_json(self) -> None:
        await self._refused(head(9) + b"[" * 9, 400)

    async def _wrong_field(self) -> None:
        await self._refused(head(2) + b"{}", 422)

    async def _too_large(self) -> None:
        await self._refused(head(10**9), 413)

    async def _too_large_chunked(self) -> None:
        await self._refused(_chunked_head() + _chunk(b" " * 70_000) * 3, 413)

    async def _gets_nothing(self, data: bytes) -> None:
        async with self._open() as (reader, writer):
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                assert not (await reader.read()).startswith(b"HTTP/1.1 2")

    async def _no_http(self) -> None:
        await self._gets_nothing(b"hello\r\n\r\n")

    async def _huge_head(self) -> None:
        await self._gets_nothing(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000)

    async def _half_head(self) -> None:
        async with self._open() as (_, writer):
            writer.write(head(10)[:-2])
            await asyncio.sleep(0)

    async def _leave(self, data: bytes, wait_s: float) -> None:
        async with self._open() as (_, writer):
            writer.write(data)
            await asyncio.sleep(wait_s)
        self._tally.maybe += 1

    async def _half_body(self) -> None:
        _, _, body = self._request()
        await self._leave(head(len(body)) + body[:-5], 0.01)

    async def _leaves_waiting(self) -> None:
        _, _, body = self._request(documents=40)
        await self._leave(head(len(body)) + body, self._rng.uniform(0, 0.02))

    async def _leaves_in_answer(self) -> None:
        _, _, body = self._request()
        async with self._open() as (reader, writer):
            writer.write(head(len(body)) + body)
            await reader.read(10)
        self._tally.maybe += 1

    async def _stalled_head(self) -> None:
        await self._gets_nothing(head(10)[:-2])

    async def _stalled_body(self) -> None:
        await self._refused(head(1000) + b"{", 408)

    async def _reads_nothing(self) -> None:
        """Several answers of the most that a request may ask for; they are thrown away, not kept."""
        text = "x" * (MAX_BODY // 2 - 1000)
        body = json.dumps({"query": "q", "texts": [text, text], "return_text": True}).encode()
        async with self._open() as (_, writer):
            for _ in range(20):
                writer.write(head(len(body)) + body)
                self._tally.maybe += 1
            while not writer.is_closing():  # a write that fails shows that the server has closed
                writer.write(b" ")
                await asyncio.sleep(0.2)


def _chunked_head() -> bytes:
    return head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@contextlib.contextmanager
def server_process(**options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A stand-in server in a process of its own, and its address."""
    command = [sys.executable, "-m", "tests.cpu.serving.stand_in_server", json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), address
        yield process, address
    finally:
        process.kill()
        process.communicate()


def memory_kib(process: subprocess.Popen[str]) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def open_files(process: subprocess.Popen[str]) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208 - a folder of /proc


async def in_parallel(acts: Iterator[Callable[[], Awaitable[None]]], clients: int) -> None:
    """Runs all acts, so many at a time; the first that fails ends it."""

    async def work() -> None:
        for act in acts:
            await act()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(work())


async def metrics(address: str) -> dict[str, float]:
    """The server's counts by name."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    lines = [line.rpartition(" ") for line in page.partition("\r\n\r\n")[2].splitlines()]
    return {name: float(value) for name, _, value in lines if name and not name.startswith("#")}


async def settled(address: str) -> dict[str, float]:
    """The counts when no request is open any more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        counts = await metrics(address)
        if not counts["prorank_requests_in_flight"]:
            return counts
        assert time.monotonic() < deadline, counts
        await asyncio.sleep(0.05)


async def soak(
    process: subprocess.Popen[str], address: str, *, requests: int, clients: int, looks: int, seed: int
) -> Tally:
    """Lets clients of all kinds act until so many requests are made; checks the server's counts."""
    tally, rng = Tally(), random.Random(seed)
    each = requests // looks
    for look in range(looks):
        until = (look + 1) * each

        def acts(until: int = until) -> Iterator[Callable[[], Awaitable[None]]]:
            while tally.sent + tally.maybe < until:
                kind = rng.choice(
                    STALLED if rng.random() < 0.01 else HARMFUL if rng.random() < 0.4 else HARMLESS
                )
                client = Client(address, tally, rng.randrange(2**60))
                yield lambda client=client, kind=kind: client.act(kind)

        await in_parallel(acts(), clients)
        counts = await settled(address)
        tally.memory_kib.append(memory_kib(process))
        check_counts(tally, counts)
    return tally


def check_counts(tally: Tally, counts: dict[str, float]) -> None:
    """Every request was answered once, and nothing of it is left."""
    prefix = 'prorank_requests_total{status="'
    by_status = {int(name[len(prefix) : -2]): int(n) for name, n in counts.items() if name.startswith(prefix)}
    assert sum(by_status.values()) <= tally.sent + tally.maybe
    for status, read in tally.answers.items():
        known = by_status.get(status, 0)
        assert known == read if status not in (200, 499) else known >= read, (status, known, read)
    # Clients that left may have done so before the server saw their request, or after it had answered.
    unread = by_status.get(200, 0) - tally.answers[200] + by_status.get(499, 0)
    assert 0 <= unread <= tally.maybe
    assert set(by_status) <= set(tally.answers) | {200, 499}, by_status
    for name in ("prorank_requests_in_flight", "prorank_queue_pairs", "prorank_held_bytes"):
        assert counts[name] == 0, (name, counts[name])
