"""Puts the pairs of concurrent requests together into batches.

The queue is bounded in pairs. Requests take turns of a few pairs, so a long one never makes a short one
wait for all of it. A request that nobody waits for any more leaves the queue at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from prorank_jax.input_checks import Pair
from prorank_jax.serving.errors import RequestError, draining, model_failed, queue_full
from prorank_jax.serving.metrics import ServerMetrics
from prorank_jax.serving.model_watch import ModelWatch

# A turn of a quarter of a batch: short requests are done in one, and four long ones share a batch.
TURNS_IN_BATCH = 4

RunBatch = Callable[[list[Pair], str | None], Awaitable[np.ndarray]]


@dataclass(eq=False)
class _Job:
    """The pairs of one request; the first `taken` of them were handed to the model."""

    pairs: Sequence[Pair]
    instruction: str | None
    arrived: float
    answer: asyncio.Future[np.ndarray]
    taken: int = 0
    scored: int = 0
    scores: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.scores = np.empty(len(self.pairs), np.float32)

    @property
    def left(self) -> int:
        return len(self.pairs) - self.taken


_Batch = list[tuple[_Job, int]]
"""Pairs, each as its request and its place in it."""


def _by_request(batch: _Batch) -> dict[_Job, _Batch]:
    """The pairs of each request, in the order in which the requests come first."""
    parts: dict[_Job, _Batch] = {}
    for job, index in batch:
        parts.setdefault(job, []).append((job, index))
    return parts


def check_scores(scores: np.ndarray, pairs: int) -> None:
    """Raises `ValueError` for what is not one finite number for each of so many pairs."""
    if scores.shape != (pairs,):
        raise ValueError(f"scores of shape {scores.shape} for {pairs} pairs")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number")


class Batcher:
    """Scores requests in batches, one batch at a time; everything but the model runs on the event loop."""

    def __init__(
        self,
        run_batch: RunBatch,
        *,
        max_batch_pairs: int,
        max_queue_pairs: int,
        batch_wait_s: float,
        metrics: ServerMetrics,
        watch: ModelWatch,
    ) -> None:
        """
        Args:
            run_batch: scores pairs under one instruction: [n] float32. It may raise `RequestError` for an
                instruction that cannot work; any other exception is a failure of the model.
            max_batch_pairs: most pairs given to it at once.
            max_queue_pairs: most pairs that wait.
            batch_wait_s: how long the first pair waits for more when the model is free.
            watch: is told which batches were scored and which were not.
        """
        self._run_batch = run_batch
        self._max_batch_pairs = max_batch_pairs
        self._turn_pairs = max(1, max_batch_pairs // TURNS_IN_BATCH)
        self._max_queue_pairs = max_queue_pairs
        self._batch_wait_s = batch_wait_s
        self._metrics = metrics
        self._watch = watch
        self._waiting: deque[_Job] = deque()
        self._unanswered: set[_Job] = set()
        self._changed = asyncio.Event()
        self._closed = False
        self.queued_pairs = 0

    async def score(self, pairs: Sequence[Pair], instruction: str | None = None) -> np.ndarray:
        """[n] float32 scores of the pairs; cancelling the wait takes what is not scored out of the queue.

        Raises:
            RequestError: 503 when the queue is full or the server stops, 500 when the model fails.
        """
        if self._closed:
            raise draining()
        if self.queued_pairs + len(pairs) > self._max_queue_pairs:
            raise queue_full(self.queued_pairs, len(pairs), self._max_queue_pairs)
        loop = asyncio.get_running_loop()
        job = _Job(pairs, instruction, loop.time(), loop.create_future())
        self._waiting.append(job)
        self._unanswered.add(job)
        self._count(len(pairs))
        self._changed.set()
        try:
            return await job.answer
        finally:
            self._drop(job)

    def close(self) -> None:
        """Takes no further requests; `run` ends when those it has are scored."""
        self._closed = True
        self._changed.set()

    def abort(self) -> None:
        """Answers whatever is unanswered with 503."""
        for job in list(self._unanswered):
            self._fail(job, draining())

    async def run(self) -> None:
        """Scores batch after batch until the batcher is closed and its queue empty."""
        while await self._batch_is_due():
            await self._score_batch(self._take_batch())

    async def _score_batch(self, batch: _Batch) -> None:
        """Answers what is complete; where several requests fail, each is scored once more, alone.

        One request's text, too long for the memory or without a finite score, must not fail the others.
        """
        parts = _by_request(batch)
        try:
            scores = await self._scores_of(batch)
        except RequestError as error:  # about the instruction, which the whole batch has
            for job in parts:
                self._fail(job, error)
        except Exception as error:
            if len(parts) == 1:
                job, index = batch[0]
                self._fail(job, model_failed(error, first_pair=index))
                return
            for job, part in parts.items():
                if not job.answer.done():  # it timed out, its client left, or the server stops
                    await self._score_batch(part)
        else:
            self._deliver(batch, scores)

    async def _scores_of(self, batch: _Batch) -> np.ndarray:
        """[n] float32 of the model, finite, counted in the metrics."""
        pairs = [job.pairs[index] for job, index in batch]
        started = asyncio.get_running_loop().time()
        try:
            scores = await self._run_batch(pairs, batch[0][0].instruction)
            check_scores(scores, len(pairs))
        except RequestError:
            raise
        except Exception as error:
            self._metrics.batch_failures.inc()
            self._watch.note_failure(len(pairs), error)
            raise
        self._watch.note_success()
        self._metrics.batch_seconds.observe(asyncio.get_running_loop().time() - started)
        self._metrics.batch_pairs.observe(len(pairs))
        self._metrics.pairs_scored.inc(len(pairs))
        return scores

    async def _batch_is_due(self) -> bool:
        """Waits until there is a batch to score; False when there will be none any more."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._waiting:
                if self._closed:
                    return False
                await self._next_change(None)
                continue
            left = min(job.arrived for job in self._waiting) + self._batch_wait_s - loop.time()
            if left <= 0 or self._closed or self.queued_pairs >= self._max_batch_pairs:
                return True
            await self._next_change(left)

    async def _next_change(self, timeout_s: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def _take_batch(self) -> _Batch:
        """The next pairs: of the request that has waited longest for its turn, and of those that agree.

        A batch has one instruction. Requests with another one keep their place, which is then the first.
        """
        instruction = self._waiting[0].instruction
        others = [job for job in self._waiting if job.instruction != instruction]
        turns = deque(job for job in self._waiting if job.instruction == instruction)
        batch: _Batch = []
        while turns and len(batch) < self._max_batch_pairs:
            job = turns.popleft()
            count = min(job.left, self._turn_pairs, self._max_batch_pairs - len(batch))
            batch += [(job, index) for index in range(job.taken, job.taken + count)]
            job.taken += count
            if job.left:
                turns.append(job)
        self._waiting = deque([*others, *turns])
        self._count(-len(batch))
        return batch

    def _deliver(self, batch: _Batch, scores: np.ndarray) -> None:
        for (job, index), score in zip(batch, scores, strict=True):
            job.scores[index] = score
            job.scored += 1
        for job in dict.fromkeys(job for job, _ in batch):
            if job.scored == len(job.pairs) and not job.answer.done():
                job.answer.set_result(job.scores)

    def _fail(self, job: _Job, error: RequestError) -> None:
        if not job.answer.done():
            job.answer.set_exception(error)
        self._drop(job)

    def _drop(self, job: _Job) -> None:
        self._unanswered.discard(job)
        if job in self._waiting:
            self._waiting.remove(job)
            self._count(-job.left)
            self._metrics.pairs_dropped.inc(job.left)

    def _count(self, change: int) -> None:
        self.queued_pairs += change
        self._metrics.queue_pairs.set(self.queued_pairs)
