"""Puts a server under load and checks every answer: clients that each wait for one answer at a time."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from prorank_jax.config_checks import require_at_least, require_positive
from prorank_jax.serving.options import option

WORDS = (
    "river", "mountain", "engine", "protein", "music", "trade", "winter", "planet", "school", "bridge",
    "treaty", "virus", "island", "market", "glass", "theatre", "coal", "satellite", "harvest", "language",
)  # fmt: skip
QUERY_WORDS = 6


@dataclass(frozen=True)
class LoadOptions:
    """What is sent, and to whom; the options of `launch/load_server.py`."""

    url: str = option(MISSING, "of the server, e.g. http://127.0.0.1:8080")
    clients: int = option(16, "connections, each with one request at a time")
    requests: int = option(2000, "in total")
    documents: int = option(4, "of each request")
    words: int = option(30, "of each document")
    seed: int = option(0, "decides the texts; the same seed sends the same requests")
    retries: int = option(
        0, "how often a request that got 503 is sent again, after the time its answer names"
    )
    timeout_s: float = option(120.0, "how long a client waits for an answer before it is counted as lost")

    def __post_init__(self) -> None:
        for name in ("clients", "requests", "documents", "words"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("retries", self.retries, 0)
        require_positive("timeout_s", self.timeout_s)
        if not _is_server(self.url):
            raise ValueError(f"url={self.url!r}: not the address of a server; give http://HOST:PORT")


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port that is no number, or none that there can be
        return False
    named = parts.scheme == "http" and bool(parts.hostname) and port != 0
    return named and parts.path in ("", "/") and not parts.query


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        status: of the last answer; 0 where none came.
        seconds: from sending to that answer, without earlier attempts and pauses.
        problem: what is wrong with the answer, or why there is none; empty for a right one and for 503.
        refusals: how many attempts got 503.
    """

    status: int
    seconds: float
    problem: str
    refusals: int


def make_request(index: int, options: LoadOptions) -> dict[str, Any]:
    """The body of a request: even ones in the format of Cohere and Jina, odd ones in that of TEI."""
    rng = random.Random(f"{options.seed} {index}")
    query = " ".join(rng.choices(WORDS, k=QUERY_WORDS))
    texts = [" ".join(rng.choices(WORDS, k=options.words)) for _ in range(options.documents)]
    if index % 2:
        return {"query": query, "texts": texts, "raw_scores": bool(index % 4 == 1), "return_text": True}
    return {"query": query, "documents": texts, "return_documents": True}


def check_answer(request: dict[str, Any], answer: Any) -> str:
    """What is wrong with the answer to a request that `make_request` made; empty if nothing is."""
    is_tei = "texts" in request
    texts = request["texts" if is_tei else "documents"]
    try:
        results = answer if is_tei else answer["results"]
        indices = [result["index"] for result in results]
        scores = [result["score" if is_tei else "relevance_score"] for result in results]
        shown = [result["text"] if is_tei else result["document"]["text"] for result in results]
    except (KeyError, TypeError) as error:
        return f"not the answer's format ({type(error).__name__}: {error})"
    if sorted(indices) != list(range(len(texts))):
        return f"indices {indices} of {len(texts)} documents"
    if any(after > before for before, after in itertools.pairwise(scores)):
        return "scores are not in descending order"
    if not request.get("raw_scores") and any(not 0 <= score <= 1 for score in scores):
        return "a score is not between 0 and 1"
    if shown != [texts[index] for index in indices]:
        return "the texts are not those of the request"
    return ""


class _Client:
    """One connection that is opened again when it breaks."""

    def __init__(self, options: LoadOptions) -> None:
        parts = urlsplit(options.url)
        self._options = options
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=options.timeout_s
        )

    def ask(self, index: int) -> Outcome:
        """Sends a request until it is answered with something else than 503 or no retry is left."""
        request = make_request(index, self._options)
        for refusals in itertools.count():
            outcome, pause_s = self._send(request, refusals)
            if outcome.status != 503 or refusals == self._options.retries:
                return outcome
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _send(self, request: dict[str, Any], refusals: int) -> tuple[Outcome, float]:
        started = time.perf_counter()
        try:
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", "/rerank", json.dumps(request).encode(), headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            problem = f"no answer ({type(error).__name__}: {error})"
            return Outcome(0, time.perf_counter() - started, problem, refusals), 0.0
        seconds = time.perf_counter() - started
        if response.status == 503:
            pause_s = float(response.headers.get("Retry-After", 1))
            return Outcome(503, seconds, "", refusals + 1), pause_s
        return Outcome(response.status, seconds, _problem(request, response.status, body), refusals), 0.0

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _problem(request: dict[str, Any], status: int, body: bytes) -> str:
    if status != 200:
        return f"status {status}: {body[:200].decode(errors='replace')}"
    try:
        return check_answer(request, json.loads(body))
    except ValueError as error:
        return f"not JSON ({error})"


def run_load(options: LoadOptions, on_answer: Callable[[], None] | None = None) -> dict[str, Any]:
    """Sends all requests and gives the report of `summarize`.

    Args:
        options: what is sent, and to whom.
        on_answer: called after each request, on any thread.
    """
    outcomes: list[Outcome | None] = [None] * options.requests
    indices = iter(range(options.requests))  # taking from it is atomic

    def work() -> None:
        client = _Client(options)
        try:
            for index in indices:
                outcomes[index] = client.ask(index)
                if on_answer:
                    on_answer()
        finally:
            client.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(options.clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return summarize(options, outcomes, time.perf_counter() - started)


def summarize(options: LoadOptions, outcomes: list[Outcome | None], seconds: float) -> dict[str, Any]:
    """Counts, and quantiles in milliseconds of the requests that were answered with 200."""
    known = [outcome for outcome in outcomes if outcome is not None]
    right = [outcome for outcome in known if outcome.status == 200 and not outcome.problem]
    refused = [outcome for outcome in known if outcome.status == 503]
    answered = [1000 * outcome.seconds for outcome in right]
    quantiles = np.percentile(answered, [50, 95, 99, 100]).tolist() if answered else [None] * 4
    p50, p95, p99, longest = quantiles
    problems = Counter(outcome.problem for outcome in known if outcome.problem)
    return {
        "options": asdict(options),
        "seconds": seconds,
        "right": len(right),
        "wrong": sum(1 for outcome in known if outcome.status == 200 and outcome.problem),
        "lost": len(outcomes) - sum(1 for outcome in known if outcome.status),
        "refused": len(refused),
        "refused_attempts": sum(outcome.refusals for outcome in known),
        "longest_refusal_ms": max((1000 * outcome.seconds for outcome in refused), default=None),
        "statuses": {str(status): n for status, n in sorted(Counter(o.status for o in known).items())},
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "longest_ms": longest,
        "requests_per_second": len(right) / seconds,
        "pairs_per_second": len(right) * options.documents / seconds,
        "problems": dict(problems.most_common(5)),
    }
