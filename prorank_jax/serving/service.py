"""The life of a server: loading, ok or failing, draining; and the way of a request's pairs to the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import numpy as np

from prorank_jax.calibration import load_calibration
from prorank_jax.input_checks import Pair
from prorank_jax.serving.batcher import Batcher, check_scores
from prorank_jax.serving.client_waits import ClientWaits
from prorank_jax.serving.errors import client_gone, draining, loading, timed_out
from prorank_jax.serving.held_bytes import HeldBytes
from prorank_jax.serving.metrics import ServerMetrics
from prorank_jax.serving.model_watch import ModelWatch
from prorank_jax.serving.one_thread import OneThread
from prorank_jax.serving.options import ServerOptions
from prorank_jax.unique_pairs import places_of

ScorePairs = Callable[[list[Pair], str | None], np.ndarray]
"""(pairs, instruction or None for the model's own) -> [n] float32; called on one thread only."""
LoadModel = Callable[[], ScorePairs]
"""Reads, compiles and tries a model; called once, on the same thread."""

# Before the time to shut down is over, whatever is unanswered gets an answer that can still be sent.
LAST_ANSWERS_SHARE = 0.9
# What the server itself asks a model that is in doubt.
OWN_PAIRS: list[Pair] = [("word", "word")]


class Service:
    """Everything behind the HTTP routes; made inside a running event loop."""

    def __init__(self, options: ServerOptions) -> None:
        """Raises `ValueError` for a file of `--calibration` that cannot be used."""
        self.options = options
        self.calibration = load_calibration(options.calibration) if options.calibration else None
        self.metrics = ServerMetrics()
        self.held_bytes = HeldBytes(options.max_held_bytes, self.metrics)
        self.client_waits = ClientWaits()
        self._stage: Literal["loading", "ok", "draining"] = "loading"
        self._takes_requests = True
        self._thread = OneThread()
        self._score: ScorePairs | None = None
        self._watch = ModelWatch(self._try_model, max(options.hang_timeout_s, options.request_timeout_s))
        self._batcher = Batcher(
            self._run_batch,
            max_batch_pairs=options.max_batch_pairs,
            max_queue_pairs=options.max_queue_pairs,
            batch_wait_s=options.batch_wait_ms / 1000,
            metrics=self.metrics,
            watch=self._watch,
        )

    @property
    def state(self) -> Literal["loading", "ok", "failing", "draining"]:
        """Only `ok` is ready for requests; only `failing` needs a new process."""
        return "failing" if self._stage == "ok" and self._watch.is_failing else self._stage

    async def _try_model(self) -> None:
        check_scores(await self._run_batch(OWN_PAIRS, None), len(OWN_PAIRS))

    async def _run_batch(self, pairs: list[Pair], instruction: str | None) -> np.ndarray:
        assert self._score is not None  # no request is taken before the model is there
        with self._watch.working():
            return await self._thread.call(self._score, pairs, instruction)

    async def run(self, load: LoadModel, announce: Callable[[], None]) -> None:
        """Loads the model, says so, and scores until the service is drained.

        Raises:
            Exception: what `load` raised.
        """
        self._score = await self._thread.call(load)
        if self._stage == "loading":
            self._stage = "ok"
            announce()
        watching = asyncio.create_task(self._watch.run())
        try:
            await self._batcher.run()
        finally:
            watching.cancel()

    def check_ready(self) -> None:
        """Raises `RequestError` 503 while the service takes no requests."""
        if not self._takes_requests:
            raise draining()
        if self._score is None:
            raise loading()

    async def score(
        self, pairs: Sequence[Pair], instruction: str | None, client_leaves: Awaitable[None]
    ) -> np.ndarray:
        """[n] float32 scores of the pairs; those of equal pairs are equal to the bit.

        Args:
            client_leaves: ends when nobody waits for the scores any more.

        Raises:
            RequestError: 503 full or draining, 504 too late, 500 the model failed, 499 nobody waits.
        """
        places = places_of(pairs)
        scoring = asyncio.ensure_future(self._batcher.score(list(places), instruction))
        leaving = asyncio.ensure_future(client_leaves)
        timeout_s = self.options.request_timeout_s
        try:
            done, _ = await asyncio.wait({scoring, leaving}, timeout=timeout_s, return_when="FIRST_COMPLETED")
        finally:
            scoring.cancel()  # without effect on one that is done
            leaving.cancel()
            await asyncio.gather(scoring, leaving, return_exceptions=True)
        if scoring in done:
            return scoring.result()[[places[pair] for pair in pairs]]
        raise client_gone() if leaving in done else timed_out(timeout_s)

    def leave(self) -> None:
        """Says that it drains; requests are taken as before."""
        self._stage = "draining"

    def drain(self) -> None:
        """Takes no further requests; those it has are answered, in the worst case with 503."""
        if not self._takes_requests:
            return
        self.leave()
        self._takes_requests = False
        self._batcher.close()
        loop = asyncio.get_running_loop()
        loop.call_later(self.options.shutdown_timeout_s * LAST_ANSWERS_SHARE, self._abort)

    def _abort(self) -> None:
        self.client_waits.end()
        self._batcher.abort()

    def stop_thread(self, timeout_s: float) -> bool:
        """Whether the model's thread has ended in time; if not, it still computes."""
        return self._thread.stop(timeout_s)
