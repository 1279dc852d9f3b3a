"""`max_held_bytes` bounds memory: what is counted is what Python has allocated, or somewhat more."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cpu.serving.live import FakeModel, head, live_server, wait_until

# Task, frames, buffers and the connection of a request, whatever its size; `max_connections` bounds them.
OTHER_BYTES = 100_000
REQUESTS = 6


@contextmanager
def memory_traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def allocated() -> int:
    """Bytes that Python holds, all threads together."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def whole(request: object) -> bytes:
    body = json.dumps(request, ensure_ascii=False).encode()
    return head(len(body)) + body


WIDE = ["\U0001f600" + "x" * 30_000 + str(number) for number in range(10)]  # each x takes four bytes
DENSE = ["\u00e9" * 30_000 + str(number) for number in range(10)]  # each takes one, and two in UTF-8
MANY = [f"{number:03}" for number in range(600)]  # little but what lists and dicts keep


@pytest.mark.parametrize("documents", [WIDE, DENSE, MANY], ids=["wide", "dense", "many"])
def test_requests_that_wait_take_no_more_than_is_counted(documents):
    model = FakeModel()
    data = whole({"query": "q", "texts": documents})
    with memory_traced(), live_server(model, max_batch_pairs=4) as live:
        model.gate.clear()
        before = allocated()
        waiting = [live.raw(data) for _ in range(REQUESTS)]
        pairs = REQUESTS * len(documents)
        wait_until(lambda: live.metric("prorank_queue_pairs") == pairs - 4)
        taken, counted = allocated() - before, live.metric("prorank_held_bytes")
        assert taken <= counted + REQUESTS * OTHER_BYTES
        assert taken >= counted / 4
        for connection in waiting:
            connection.close()
        wait_until(lambda: live.metric("prorank_held_bytes") == 0)


def test_answers_that_nobody_reads_take_no_more_than_is_counted():
    model = FakeModel()
    # More than the sockets take of each.
    data = whole({"query": "q", "texts": ["x" * 6_000_000], "return_text": True})
    limits = {"max_body_bytes": 2**23, "max_text_chars": 2**23, "client_timeout_s": 60.0}
    with memory_traced(), live_server(model, **limits) as live:
        before = allocated()
        unread = [live.slow_reader(data) for _ in range(REQUESTS)]
        wait_until(lambda: live.metric('prorank_requests_total{status="200"}') == REQUESTS)
        model.batches.clear()
        taken, counted = allocated() - before, live.metric("prorank_held_bytes")
        assert counted >= REQUESTS * 6_000_000
        assert counted / 2 <= taken <= counted + REQUESTS * OTHER_BYTES * 4  # and what uvicorn is sending
        for connection in unread:
            connection.close()


def test_what_was_scored_is_not_kept():
    model = FakeModel()
    with memory_traced(), live_server(model) as live:
        live.rerank({"query": "q", "texts": ["warm up"]})
        before = allocated()
        assert live.rerank({"query": "q", "texts": WIDE}).status == 200
        model.batches.clear()
        assert allocated() - before < OTHER_BYTES


def test_texts_too_large_by_themselves_are_413_and_with_others_503():
    model = FakeModel()
    limits = {"max_held_bytes": 300_000, "max_body_bytes": 200_000}
    with live_server(model, **limits) as live:
        answer = live.rerank({"query": "q", "texts": ["\U0001f600" + "x" * 80_000]})
        assert answer.status == 413
        assert "bytes of memory, more than max_held_bytes=300000" in answer.content["error"]["message"]
        model.gate.clear()
        with live.raw(whole({"query": "q", "texts": ["x" * 160_000]})):
            wait_until(lambda: model.batches)
            answer = live.rerank({"query": "q", "texts": ["\U0001f600" + "x" * 40_000]})
            assert (answer.status, answer.content["error"]["type"]) == (503, "memory_full")
            model.gate.set()
        wait_until(lambda: live.metric("prorank_held_bytes") == 0)
        assert live.rerank({"query": "q", "texts": ["\U0001f600" + "x" * 40_000]}).status == 200
