"""Bounds what all requests together keep in memory: bodies that arrive, texts that wait, answers unread.

What one request takes while it is parsed or its answer written comes on top: that is one at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prorank_jax.serving.errors import RequestError, unavailable
from prorank_jax.serving.metrics import ServerMetrics
from prorank_jax.serving.request_format import RerankRequest

# What lists, dicts and scores keep of each pair beside its texts; a document's place in an answer takes less.
PAIR_BYTES = 256


class HeldBytes:
    """Counts what the requests hold, and refuses more than a bound."""

    def __init__(self, limit: int, metrics: ServerMetrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._held = 0

    @contextmanager
    def share(self) -> Iterator[HeldShare]:
        """What one request holds, until the context ends."""
        share = HeldShare(self)
        try:
            yield share
        finally:
            share.shrink_to(0)

    def change(self, before: int, after: int) -> None:
        """One request holds `after` bytes instead of `before`.

        Raises:
            RequestError: it is more, and above the bound: 413 by itself, 503 together with others.
        """
        if after > before and after > self._limit:
            raise RequestError(
                413,
                "texts_too_large",
                f"the texts take {after} bytes of memory, more than max_held_bytes={self._limit}; send fewer "
                "or shorter documents",
            )
        if after > before and self._held + after - before > self._limit:
            raise unavailable(
                "memory_full", f"requests hold max_held_bytes={self._limit} already; try again later"
            )
        self._held += after - before
        self._metrics.held_bytes.set(self._held)


class HeldShare:
    """What one request holds of the bytes of all."""

    def __init__(self, all_held: HeldBytes) -> None:
        self._all = all_held
        self._held = 0

    def hold(self, count: int) -> None:
        """So many bytes from now on; raises `RequestError` as `HeldBytes.change` does."""
        self._all.change(self._held, count)
        self._held = count

    def shrink_to(self, count: int) -> None:
        """At most so many bytes from now on; never refused."""
        self.hold(min(count, self._held))


def bytes_kept(asked: RerankRequest, body_bytes: int) -> int:
    """Most bytes that a parsed request keeps until its answer is sent.

    At first its texts, of which each character takes up to four bytes where the body had one. Then the
    answer, in which a document that is returned is no longer than in the body.
    """
    texts = sum(map(sys.getsizeof, (asked.query, *asked.documents)))
    return max(texts, body_bytes) + PAIR_BYTES * len(asked.documents)
