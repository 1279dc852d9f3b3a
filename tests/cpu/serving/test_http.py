"""Over HTTP: both formats, all paths, clear errors, health and metrics."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prorank_jax.calibration import Calibration, save_calibration
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.process import RerankServer, bind
from tests.cpu.serving.live import (
    JSON,
    FakeModel,
    fake_score,
    head,
    live_server,
    read_answer,
    wait_until,
)

DOCUMENTS = ["first", "second", "third"]
COHERE = {"query": "q", "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def live():
    with live_server(
        max_documents=5, max_queue_pairs=50, max_body_bytes=2000, max_held_bytes=20_000, batch_wait_ms=1.0
    ) as server:
        yield server


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_a_cohere_client_is_answered(live, path):
    answer = live.rerank(COHERE | {"top_n": 2, "return_documents": True, "model": "rerank-v3.5"}, path)
    assert answer.status == 200
    assert answer.content["model"] == "fake"
    best = sorted(range(3), key=lambda index: -fake_score("q", DOCUMENTS[index]))[:2]
    assert [result["index"] for result in answer.content["results"]] == best
    assert [result["document"]["text"] for result in answer.content["results"]] == [
        DOCUMENTS[i] for i in best
    ]


def test_a_tei_client_is_answered(live):
    answer = live.rerank({"query": "q", "texts": DOCUMENTS, "raw_scores": True})
    assert {r["index"]: r["score"] for r in answer.content} == {
        index: fake_score("q", text) for index, text in enumerate(DOCUMENTS)
    }


def test_an_instruction_reaches_the_model(live):
    answer = live.rerank({"query": "q", "texts": ["d"], "raw_scores": True, "instruction": "i"})
    assert answer.content == [{"index": 0, "score": fake_score("q", "d", "i")}]


def test_texts_that_utf8_cannot_hold_are_answered(live):
    answer = live.rerank(b'{"query": "q", "documents": ["\\ud800x \\u00e9"], "return_documents": true}')
    assert answer.content["results"][0]["document"]["text"] == "?x é"


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", JSON, 400, "one JSON object"),
        (b"{}", JSON, 422, "documents: missing"),
        (b"{}", {}, 415, "Content-Type ''"),
        (
            b"{}",
            {"Content-Type": "application/x-www-form-urlencoded"},
            415,
            "send 'Content-Type: application/json",
        ),
        (b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "UTF-8"),
        (b"{}", JSON | {"Content-Encoding": "gzip"}, 415, "uncompressed"),
        (b" " * 2001, JSON, 413, "max_body_bytes=2000"),
        (iter([b" " * 1500, b" " * 1500]), JSON, 413, "max_body_bytes=2000"),
    ],
)
def test_bad_requests_are_told_why(live, body, headers, status, message):
    answer = live.ask("POST", "/rerank", body, headers)
    assert answer.status == status
    assert message in answer.content["error"]["message"]


def test_a_content_type_may_have_a_charset_and_capitals(live):
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
    assert live.ask("POST", "/rerank", json.dumps(COHERE), headers).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/rerank", 405), ("POST", "/health", 405), ("GET", "/", 404), ("POST", "/v3/rerank", 404)],
)
def test_wrong_routes_are_told_the_right_ones(live, method, path, status):
    answer = live.ask(method, path)
    assert answer.status == status
    assert "POST /rerank" in answer.content["error"]["message"]


def test_what_is_no_http_is_refused(live):
    with live.raw(b"hello\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_declared_body_too_large_is_refused_before_it_is_sent(live):
    with live.raw(head(10**9)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_connection_serves_on_after_an_error(live):
    connection = live.connect()
    for body, status in [(b"{", 400), (b" " * 3000, 413), (json.dumps(COHERE).encode(), 200)]:
        connection.request("POST", "/rerank", body, JSON)
        assert read_answer(connection).status == status
    connection.close()


@pytest.mark.parametrize(
    ("document", "told", "logged"),
    [
        ("break", "(RuntimeError); the server's log", "the device\nran out of memory"),
        ("nan", "(ValueError: a score is not a finite number)", "a score is not a finite number"),
        ("leave", "(RuntimeError); the server's log", "SystemExit: a model must not end the server"),
    ],
)
def test_a_model_that_fails_fails_its_requests_only(live, document, told, logged, caplog):
    answer = live.rerank({"query": "q", "documents": [document, "x"]})
    assert answer.status == 500
    assert told in answer.content["error"]["message"]
    assert "out of memory" not in answer.content["error"]["message"]
    assert "Traceback" in caplog.text
    assert logged in caplog.text
    assert live.rerank(COHERE).status == 200
    assert live.metric("prorank_queue_pairs") == 0
    assert live.ask("GET", "/health").status == 200


def test_a_model_that_is_lost_is_told_by_health_and_live_until_it_works_again(caplog):
    with live_server(served_model_name="reranker") as live:
        live.model.is_lost = True
        answer = live.rerank(COHERE)
        assert answer.status == 500
        assert "/srv" not in answer.content["error"]["message"]
        wait_until(lambda: live.ask("GET", "/health").status == 503)
        for path in ("/health", "/live"):
            answer = live.ask("GET", path)
            assert (answer.status, answer.content) == (503, {"status": "failing", "model": "reranker"})
        assert "device lost at /srv/team/run7" in caplog.text
        live.model.is_lost = False  # nobody asks for anything: the server finds out by itself
        wait_until(lambda: live.ask("GET", "/health").status == 200)
        assert live.ask("GET", "/live").status == 200
        assert "works again" in caplog.text
        assert live.metric("prorank_pairs_scored_total") == 0


def test_a_model_that_hangs_is_told_by_health_and_live_until_it_is_done():
    with live_server(request_timeout_s=0.2, hang_timeout_s=0.3) as live:
        live.model.gate.clear()
        assert live.rerank(COHERE).status == 504
        for path in ("/health", "/live"):
            wait_until(lambda path=path: live.ask("GET", path).status == 503)
        live.model.gate.set()
        wait_until(lambda: live.ask("GET", "/health").status == 200)
        assert live.rerank(COHERE).status == 200


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/health", "/live", "/metrics"])
def test_a_slash_too_many_is_no_other_path(live, path):
    """A redirect would name http:// and no prefix, whatever a proxy before the server has taken away."""
    counted = live.metric('prorank_requests_total{status="200"}')
    method, body = ("POST", json.dumps(COHERE)) if path.endswith("rerank") else ("GET", None)
    assert live.ask(method, f"{path}/", body, JSON).status == 200
    assert live.metric('prorank_requests_total{status="200"}') == counted + (method == "POST")
    answer = live.ask(method, f"{path}//", body, JSON)
    assert (answer.status, answer.headers["Location"]) == (404, None)


def test_clients_see_the_name_that_was_chosen_not_the_path():
    with live_server(served_model_name="reranker") as live:
        assert live.rerank(COHERE).content["model"] == "reranker"
        assert live.ask("GET", "/health").content == {"status": "ok", "model": "reranker"}


def test_scores_from_0_to_1_are_those_of_the_calibration(tmp_path):
    calibration = Calibration(0.3, -1.0)
    save_calibration(tmp_path / "calibration.json", calibration)
    raw = np.array([fake_score("q", text) for text in DOCUMENTS], np.float32)
    expected = dict(enumerate(calibration.probabilities(raw).tolist()))
    texts = {"query": "q", "texts": DOCUMENTS}
    with live_server(calibration=str(tmp_path / "calibration.json")) as live:
        answer = live.rerank(COHERE).content["results"]
        assert {result["index"]: result["relevance_score"] for result in answer} == expected
        answer = live.rerank(texts).content
        assert {result["index"]: result["score"] for result in answer} == expected
        answer = live.rerank(texts | {"raw_scores": True}).content
        assert {result["index"]: result["score"] for result in answer} == dict(enumerate(raw.tolist()))


def test_a_calibration_that_cannot_be_used_is_refused_before_a_model_is_loaded(tmp_path):
    options = ServerOptions(model="fake", calibration=str(tmp_path / "absent.json"))

    async def run() -> None:
        RerankServer(options, FakeModel, lambda: None)

    with pytest.raises(ValueError, match=r"absent\.json.*No such file"):
        asyncio.run(run())


def test_health(live):
    answer = live.ask("GET", "/health")
    assert (answer.status, answer.content) == (200, {"status": "ok", "model": "fake"})


def test_metrics_are_in_the_format_of_prometheus_and_count(live):
    before = live.metric("prorank_pairs_scored_total")
    right = live.metric('prorank_requests_total{status="200"}')
    wrong = live.metric('prorank_requests_total{status="422"}')
    live.rerank(COHERE)
    live.rerank({})
    assert live.metric("prorank_pairs_scored_total") == before + 3
    assert live.metric('prorank_requests_total{status="200"}') == right + 1
    assert live.metric('prorank_requests_total{status="422"}') == wrong + 1
    page = live.ask("GET", "/metrics")
    assert re.match("text/plain; version=0.0.4", page.headers["Content-Type"])
    families = {family.name for family in text_string_to_metric_families(page.content)}
    assert {"prorank_queue_pairs", "prorank_request_seconds", "prorank_batch_pairs"} <= families


def test_every_one_of_many_concurrent_requests_gets_its_own_scores():
    with live_server(FakeModel(), max_batch_pairs=8) as live, ThreadPoolExecutor(16) as clients:

        def ask(index: int) -> None:
            texts = [f"{index} {place}" for place in range(1 + index % 11)]
            instruction = (None, "a")[index % 5 == 0]
            told = {"instruction": instruction} if instruction else {}
            answer = live.rerank({"query": str(index), "texts": texts, "raw_scores": True} | told)
            assert answer.status == 200
            assert {result["index"]: result["score"] for result in answer.content} == {
                place: fake_score(str(index), text, instruction) for place, text in enumerate(texts)
            }

        list(clients.map(ask, range(300)))
        assert len(live.model.scored) == len(set(live.model.scored)) == sum(1 + n % 11 for n in range(300))
        assert len(live.model.batches) < 300
        assert live.metric('prorank_requests_total{status="200"}') == 300


def test_overload_is_answered_with_503_and_the_accepted_with_scores():
    model = FakeModel()
    with live_server(model, max_documents=5, max_queue_pairs=20, max_batch_pairs=5) as live:
        model.gate.clear()
        documents = [f"document {number}" for number in range(5)]
        with ThreadPoolExecutor(40) as clients:
            answers = [
                clients.submit(live.rerank, {"query": str(n), "documents": documents}) for n in range(40)
            ]
            wait_until(lambda: sum(answer.done() for answer in answers) == 35)
            refused = [answer.result() for answer in answers if answer.done()]
            assert {answer.status for answer in refused} == {503}
            assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
            assert "max_queue_pairs=20" in refused[0].content["error"]["message"]
            assert live.ask("GET", "/health").status == 200
            model.gate.set()
            statuses = [answer.result().status for answer in answers]
        assert (statuses.count(200), statuses.count(503)) == (5, 35)


def test_more_connections_than_allowed_get_503():
    with live_server(max_connections=3) as live:
        idle = [live.raw(b"") for _ in range(3)]
        refused = live.rerank(COHERE)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.headers["Connection"] == "close"
        assert refused.content["error"]["type"] == "too_many_connections"
        assert "4 connections are open, more than max_connections=3" in refused.content["error"]["message"]
        assert live.ask("GET", "/health").status == 200
        assert live.metric('prorank_requests_total{status="503"}') == 1
        idle.pop().close()
        wait_until(lambda: live.rerank(COHERE).status == 200)
        for connection in idle:
            connection.close()


def test_a_client_that_still_sends_gets_the_503_too():
    """Closed with unread bytes, its connection would be reset, and the answer be lost."""
    body = json.dumps(COHERE | {"documents": ["word " * 60_000]}).encode()
    with live_server(max_connections=2, max_body_bytes=2**20) as live:
        idle = [live.raw(b"") for _ in range(2)]
        with live.raw(head(len(body))) as late:
            for start in range(0, len(body), 2**16):
                time.sleep(0.02)
                late.sendall(body[start : start + 2**16])
            assert late.recv(100).startswith(b"HTTP/1.1 503 ")
        for connection in idle:
            connection.close()


def test_equal_documents_have_equal_scores_in_whatever_batches_they_are():
    model = FakeModel()
    with live_server(model, max_batch_pairs=4, max_documents=20) as live:
        documents = [f"document {number}" for number in range(9)]
        answer = live.rerank({"query": "q", "texts": [*documents, documents[0]], "raw_scores": True})
        assert sorted(pair[1] for pair in model.scored) == documents
        found = {result["index"]: result["score"] for result in answer.content}
        assert found == {i: fake_score("q", text) for i, text in enumerate([*documents, documents[0]])}


def test_while_the_model_loads_the_server_says_so():
    loaded = threading.Event()
    model = FakeModel()

    def load() -> FakeModel:
        assert loaded.wait(10)
        return model

    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    servers: list[RerankServer] = []

    async def run() -> None:
        servers.append(RerankServer(ServerOptions(model="fake"), load, lambda: None))
        assert await servers[0].run_on(listener)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()

    def ask(request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(1000), b""))

    health = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    try:
        answer = ask(health)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"loading"' in answer
        assert ask(health.replace(b"/health", b"/live")).startswith(b"HTTP/1.1 200")
        answer = ask(head(2, "Connection: close\r\n") + b"{}")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in answer.lower()
        loaded.set()
        wait_until(lambda: ask(health).startswith(b"HTTP/1.1 200"))
    finally:
        loaded.set()
        servers[0].should_exit = True
        thread.join(10)


def test_a_model_that_cannot_be_loaded_ends_the_server():
    def load() -> FakeModel:
        raise ValueError("no such model")

    async def run() -> None:
        server = RerankServer(ServerOptions(model="fake"), load, lambda: None)
        await asyncio.wait_for(server.run_on(bind("127.0.0.1", 0)), 10)

    with pytest.raises(ValueError, match="no such model"):
        asyncio.run(run())
