"""Clients that are slow, stop half-way, leave, or never read: nobody waits for ever, nothing is kept."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cpu.serving.live import JSON, FakeModel, head, live_server, read_answer, wait_until

COHERE = {"query": "q", "documents": ["a", "b"]}
BODY = json.dumps(COHERE).encode()


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def read_one(connection: socket.socket) -> bytes:
    """One answer, which may come in pieces; the connection stays open."""
    answer, length = b"", 1 << 20
    while len(answer) < length:
        piece = connection.recv(4096)
        assert piece, answer
        answer += piece
        if told := re.match(rb"(?is)(.*?content-length: (\d+)\r\n.*?\r\n\r\n)", answer):
            length = len(told[1]) + int(told[2])
    return answer


def ends(connection: socket.socket) -> bool:
    """Whether the server closes a connection, instead of waiting for more."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def drip(connection: socket.socket, piece: bytes) -> None:
    """Sends a little now and then for five seconds."""
    for _ in range(250):
        connection.sendall(piece)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def impatient():
    with live_server(client_timeout_s=0.3, max_body_bytes=50_000, max_held_bytes=60_000) as server:
        yield server


@pytest.mark.parametrize("data", [b"", b"POST /rer", head(10)[:-2]])
def test_a_head_that_does_not_come_ends_the_connection(impatient, data):
    started = time.monotonic()
    with impatient.raw(data) as connection:
        assert read_to_end(connection) == b""
    assert 0.2 < time.monotonic() - started < 5


def test_a_head_that_comes_byte_by_byte_ends_the_connection_too(impatient):
    with impatient.raw(b"POST /rerank HTTP/1.1\r\n") as connection:
        started = time.monotonic()
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            drip(connection, b"a: b\r\n")
    assert time.monotonic() - started < 3


def test_a_body_that_does_not_come_is_answered_with_408(impatient):
    with impatient.raw(head(1000) + b'{"query"') as connection:
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"client_timeout_s=0.3" in answer
    wait_until(lambda: impatient.metric("prorank_held_bytes") == 0)


def test_a_refused_body_may_not_be_sent_for_ever(impatient):
    started = time.monotonic()
    with impatient.raw(head(10**9)) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            drip(connection, b"x")
    assert time.monotonic() - started < 3


def test_half_bodies_are_bounded_together(impatient):
    half = head(45_000) + b" " * 40_000
    with impatient.raw(half):
        wait_until(lambda: impatient.metric("prorank_held_bytes") >= 40_000)
        answer = impatient.rerank(b" " * 30_000)
        assert answer.status == 503
        assert "max_held_bytes=60000" in answer.content["error"]["message"]
    wait_until(lambda: impatient.metric("prorank_held_bytes") == 0)
    assert impatient.rerank(COHERE).status == 200


def test_an_answer_that_nobody_reads_is_thrown_away():
    text = "x" * 100_000
    request = {"query": "q", "documents": [text] * 200, "return_documents": True}
    with live_server(client_timeout_s=2.0, max_body_bytes=2**25) as live:
        body = json.dumps(request).encode()
        connection = live.slow_reader(head(len(body)) + body)
        wait_until(lambda: live.server.server_state.connections)
        wait_until(lambda: not live.server.server_state.connections)
        assert len(read_to_end(connection)) < len(text) * 200
        connection.close()


def test_an_answer_that_is_not_read_counts_as_held_until_it_is_thrown_away():
    body = json.dumps({"query": "q", "documents": ["x" * 10**7], "return_documents": True}).encode()
    with live_server(client_timeout_s=4.0, max_body_bytes=2**25, max_text_chars=10**8) as live:
        answer_bytes = int(live.ask("POST", "/rerank", body, JSON).headers["Content-Length"])
        connection = live.slow_reader(head(len(body)) + body)
        wait_until(lambda: live.metric('prorank_requests_total{status="200"}') == 2)
        assert live.metric("prorank_held_bytes") == answer_bytes
        wait_until(lambda: live.metric("prorank_held_bytes") == 0)
        connection.close()


def test_an_answer_that_is_read_slowly_but_in_time_comes_whole():
    text = "x" * 3_000_000
    body = json.dumps({"query": "q", "texts": [text], "return_text": True}).encode()
    with live_server(client_timeout_s=20.0, max_body_bytes=2**25, max_text_chars=10**8) as live:
        connection = live.slow_reader(head(len(body), "Connection: close\r\n") + body)
        received = b""
        while piece := connection.recv(200_000):
            received += piece
            time.sleep(0.001)
        assert json.loads(received.partition(b"\r\n\r\n")[2])[0]["text"] == text
        connection.close()


def test_connections_that_say_nothing_are_bounded():
    with live_server(max_connections=3) as live:
        silent = [live.raw(b"") for _ in range(6)]
        wait_until(lambda: len(live.server.server_state.connections) == 6)
        for _ in range(3):
            with live.raw(b"") as one_more:
                assert ends(one_more)
        assert len(live.server.server_state.connections) == 6
        for connection in silent:
            connection.close()


def test_a_connection_that_is_used_on_is_kept(impatient):
    connection = impatient.connect()
    connection.connect()
    kept = connection.sock
    for _ in range(4):
        connection.request("POST", "/rerank", BODY, JSON)
        assert read_answer(connection).status == 200
        time.sleep(0.15)
    assert connection.sock is kept
    connection.close()


WRONG_TYPE = head(10).replace(b"/json", b"/xml")


def test_a_connection_is_kept_as_long_when_the_rest_of_a_refused_body_comes_late(impatient):
    with impatient.raw(WRONG_TYPE + b"12345") as connection:
        assert read_one(connection).startswith(b"HTTP/1.1 415")
        connection.sendall(b"67890")
        time.sleep(0.7)
        connection.sendall(head(len(BODY)) + BODY)
        assert read_one(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_start", "rest"),
    [(head(len(BODY)), BODY), (WRONG_TYPE + b"12345", b"67890")],
    ids=["answered", "refused"],
)
def test_an_idle_connection_is_closed_when_its_time_is_over(request_start, rest):
    with live_server(keep_alive_s=1.0) as live, live.raw(request_start) as connection:
        if request_start.startswith(WRONG_TYPE):
            assert read_one(connection).startswith(b"HTTP/1.1 415")
        connection.sendall(rest)
        started = time.monotonic()
        read_to_end(connection)
        assert 0.7 < time.monotonic() - started < 5


def test_requests_sent_at_once_on_one_connection_are_answered_in_order(impatient):
    with impatient.raw(
        3 * (head(len(BODY)) + BODY) + head(len(BODY), "Connection: close\r\n") + BODY
    ) as connection:
        assert read_to_end(connection).count(b"HTTP/1.1 200") == 4


def test_the_pairs_of_a_client_that_left_are_not_scored():
    model = FakeModel()
    with live_server(model, max_batch_pairs=2, batch_wait_ms=0.0) as live, ThreadPoolExecutor(1) as clients:
        model.gate.clear()
        first = clients.submit(live.rerank, COHERE)
        wait_until(lambda: len(model.batches) == 1)
        gone = live.raw(head(len(BODY)) + BODY.replace(b'"q"', b'"g"'))
        wait_until(lambda: live.metric("prorank_queue_pairs") == 2)
        gone.close()
        wait_until(lambda: live.metric("prorank_queue_pairs") == 0)
        assert live.metric('prorank_requests_total{status="499"}') == 1
        assert live.metric("prorank_pairs_dropped_total") == 2
        model.gate.set()
        assert first.result().status == 200
        assert live.rerank({"query": "z", "documents": ["c"]}).status == 200
        assert {query for query, _ in model.scored} == {"q", "z"}


def test_a_client_that_leaves_during_its_batch_harms_nobody():
    model = FakeModel()
    with live_server(model, batch_wait_ms=50.0) as live, ThreadPoolExecutor(1) as clients:
        model.gate.clear()
        gone = live.raw(head(len(BODY)) + BODY)
        here = clients.submit(live.rerank, {"query": "here", "documents": ["a"]})
        wait_until(lambda: model.batches)
        gone.close()
        wait_until(lambda: live.metric('prorank_requests_total{status="499"}') == 1)
        model.gate.set()
        assert here.result().status == 200


def test_scores_that_come_too_late_are_a_504():
    model = FakeModel()
    with live_server(model, request_timeout_s=0.2, max_batch_pairs=2) as live:
        model.gate.clear()
        answer = live.rerank({"query": "q", "documents": ["a", "b", "c"]})
        assert answer.status == 504
        assert "request_timeout_s=0.2" in answer.content["error"]["message"]
        assert live.metric("prorank_queue_pairs") == 0
        model.gate.set()
        wait_until(lambda: live.rerank(COHERE).status == 200)
        assert ("q", "c") not in model.scored


def test_draining_answers_what_was_accepted_and_refuses_the_rest():
    model = FakeModel()
    with live_server(model, max_batch_pairs=2) as live, ThreadPoolExecutor(8) as clients:
        model.gate.clear()
        accepted = [clients.submit(live.rerank, {"query": str(n), "documents": ["a", "b"]}) for n in range(8)]
        wait_until(lambda: live.metric("prorank_queue_pairs") == 14)
        half = live.raw(head(len(BODY)) + BODY[:5])
        wait_until(lambda: live.metric("prorank_requests_in_flight") == 9)
        live.stop()
        wait_until(lambda: not connects(live.port))
        half.sendall(BODY[5:])
        answer = read_to_end(half)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"shutting down" in answer
        model.gate.set()
        assert [answer.result().status for answer in accepted] == [200] * 8
        live.thread.join(10)
        assert not live.thread.is_alive()


def test_balancers_have_time_to_see_that_the_server_leaves():
    with live_server(drain_delay_s=60.0) as live:
        connection = live.connect()
        connection.request("POST", "/rerank", BODY, JSON)
        assert read_answer(connection).headers["Connection"] is None
        live.server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: live.ask("GET", "/health").status == 503)
        assert live.ask("GET", "/health").content["status"] == "draining"
        assert live.ask("GET", "/live").status == 200
        assert live.rerank(COHERE).status == 200  # one who does not know yet
        connection.request("POST", "/rerank", BODY, JSON)
        answer = read_answer(connection)
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        live.server.handle_exit(signal.SIGTERM, None)  # told again: no more patience
        live.thread.join(10)
        assert not live.thread.is_alive()


def test_the_listener_is_closed_when_that_time_is_over():
    with live_server(drain_delay_s=0.5) as live:
        started = time.monotonic()
        live.stop()
        wait_until(lambda: not connects(live.port))
        assert 0.4 < time.monotonic() - started < 5
        live.thread.join(10)
        assert not live.thread.is_alive()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_what_was_accepted_is_answered_when_that_time_is_cut_short(second):
    """Ctrl-C after SIGTERM ends the wait for balancers, not the answers."""
    model = FakeModel()
    with live_server(model, drain_delay_s=60.0) as live, ThreadPoolExecutor(1) as clients:
        model.gate.clear()
        accepted = clients.submit(live.rerank, COHERE)
        wait_until(lambda: live.metric("prorank_requests_in_flight") == 1)
        live.server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: live.ask("GET", "/health").status == 503)
        live.server.handle_exit(second, None)
        wait_until(lambda: not connects(live.port))
        time.sleep(0.3)  # longer than uvicorn gives who is forced out
        model.gate.set()
        assert accepted.result().status == 200
        live.thread.join(10)
        assert not live.thread.is_alive()


def test_ctrl_c_waits_for_no_balancer():
    with live_server(drain_delay_s=60.0) as live:
        live.server.handle_exit(signal.SIGINT, None)
        live.thread.join(10)
        assert not live.thread.is_alive()


def test_a_body_that_still_arrives_when_the_server_must_leave_is_answered(caplog):
    with live_server(shutdown_timeout_s=0.5, client_timeout_s=20.0) as live:
        half = live.raw(head(len(BODY)) + BODY[:5])
        wait_until(lambda: live.metric("prorank_requests_in_flight") == 1)
        live.stop()
        answer = read_to_end(half)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"shutting down" in answer
    assert not caplog.records


def test_an_answer_that_is_still_read_when_the_server_must_leave_ends_without_a_fault(caplog):
    body = json.dumps({"query": "q", "documents": ["x" * 10**7], "return_documents": True}).encode()
    with live_server(shutdown_timeout_s=0.5, max_body_bytes=2**25, max_text_chars=10**8) as live:
        connection = live.slow_reader(head(len(body)) + body)
        wait_until(lambda: live.metric('prorank_requests_total{status="200"}') == 1)
        live.stop()
        live.thread.join(10)
        assert not live.thread.is_alive()
        connection.close()
    assert not [record for record in caplog.records if record.exc_info]


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_model_that_hangs_does_not_stop_the_end():
    model = FakeModel()
    with live_server(model, shutdown_timeout_s=0.5) as live, ThreadPoolExecutor(1) as clients:
        model.gate.clear()
        waiting = clients.submit(live.rerank, COHERE)
        wait_until(lambda: model.batches)
        live.stop()
        answer = waiting.result()
        assert (answer.status, answer.content["error"]["type"]) == (503, "draining")
        model.gate.set()
