"""What /metrics shows, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServerMetrics:
    """The counters of one server; several servers in a process do not share any."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "prorank_requests",
            "Rerank requests by HTTP status; 499: the client left before its answer.",
            ["status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "prorank_request_seconds",
            "Seconds from the head of a rerank request to its answer.",
            buckets=SECONDS,
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "prorank_requests_in_flight", "Rerank requests without an answer so far.", registry=registry
        )
        self.queue_pairs = Gauge("prorank_queue_pairs", "Pairs that wait for the model.", registry=registry)
        self.held_bytes = Gauge(
            "prorank_held_bytes", "Bytes that requests hold: bodies, texts, answers.", registry=registry
        )
        self.pairs_scored = Counter("prorank_pairs_scored", "Pairs that the model scored.", registry=registry)
        self.pairs_dropped = Counter(
            "prorank_pairs_dropped",
            "Pairs taken out of the queue unscored: client gone, timeout, failure or shutdown.",
            registry=registry,
        )
        self.batch_pairs = Histogram(
            "prorank_batch_pairs", "Pairs of each batch.", buckets=PAIRS, registry=registry
        )
        self.batch_seconds = Histogram(
            "prorank_batch_seconds",
            "Seconds that the model took for each batch.",
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_failures = Counter(
            "prorank_batch_failures", "Batches that the model could not score.", registry=registry
        )

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)
