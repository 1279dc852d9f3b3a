"""Batches across requests: every pair scored once, fairly, within the bounds, and never a wrong owner."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.serving.batcher import Batcher, Pair
from prorank_jax.serving.errors import RequestError
from prorank_jax.serving.metrics import ServerMetrics
from prorank_jax.serving.model_watch import ModelWatch
from tests.cpu.serving.live import fake_score


class Model:
    """Notes its batches; scores each when `release` is called, or at once where `held` is false."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[Pair]] = []
        self.instructions: list[str | None] = []
        self._gate = asyncio.Semaphore(0)
        self._held = held

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._gate.release()

    async def __call__(self, pairs: list[Pair], instruction: str | None) -> np.ndarray:
        self.batches.append(pairs)
        self.instructions.append(instruction)
        if self._held:
            await self._gate.acquire()
        await asyncio.sleep(0)
        return np.array([fake_score(*pair, instruction) for pair in pairs], np.float32)


async def never_tried() -> None:
    raise AssertionError("nobody runs this watch")


def make_batcher(model: Any, **changes: Any) -> Batcher:
    options = {"max_batch_pairs": 4, "max_queue_pairs": 100, "batch_wait_s": 0.0}
    counts = {"metrics": ServerMetrics(), "watch": ModelWatch(never_tried)}
    return Batcher(model, **options | counts | changes)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def pairs_of(name: str, count: int) -> list[Pair]:
    return [(name, str(index)) for index in range(count)]


async def settle(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([None, "a", "b"])), min_size=1, max_size=8),
    st.integers(1, 6),
)
def test_every_pair_is_scored_once_and_answered_to_its_owner(requests, max_batch_pairs):
    async def scenario() -> None:
        model = Model()
        batcher = make_batcher(model, max_batch_pairs=max_batch_pairs)
        runner = asyncio.create_task(batcher.run())
        jobs = [(pairs_of(f"r{n}", count), told) for n, (count, told) in enumerate(requests)]
        answers = await asyncio.gather(*(batcher.score(pairs, told) for pairs, told in jobs))
        batcher.close()
        await runner
        for (pairs, told), scores in zip(jobs, answers, strict=True):
            assert scores.tolist() == [fake_score(*pair, told) for pair in pairs]
        sent = [pair for batch in model.batches for pair in batch]
        assert sorted(sent) == sorted(pair for pairs, _ in jobs for pair in pairs)
        assert all(1 <= len(batch) <= max_batch_pairs for batch in model.batches)
        told_of = {pairs[0][0]: told for pairs, told in jobs}
        for batch, told in zip(model.batches, model.instructions, strict=True):
            assert {told_of[query] for query, _ in batch} == {told}
        assert batcher.queued_pairs == 0

    run(scenario)


def test_requests_take_turns():
    async def scenario() -> None:
        model = Model(held=True)
        batcher = make_batcher(model)
        runner = asyncio.create_task(batcher.run())
        long = asyncio.create_task(batcher.score(pairs_of("long", 20)))
        await settle()
        short = asyncio.create_task(batcher.score(pairs_of("short", 2)))
        await settle()
        model.release(2)
        assert len(await short) == 2  # after the batch that was under way and the next one
        assert len(model.batches) <= 3
        assert not long.done()
        model.release(10)
        await long
        batcher.close()
        await runner

    run(scenario)


def test_short_requests_are_not_split_over_batches():
    async def scenario() -> None:
        model = Model()
        batcher = make_batcher(model, max_batch_pairs=16)
        jobs = [asyncio.create_task(batcher.score(pairs_of(str(n), 4))) for n in range(8)]
        await settle()
        batcher.close()
        await batcher.run()
        await asyncio.gather(*jobs)
        assert [{query for query, _ in batch} for batch in model.batches] == [set("0123"), set("4567")]

    run(scenario)


def test_requests_with_another_instruction_come_next():
    async def scenario() -> None:
        model = Model(held=True)
        batcher = make_batcher(model)
        runner = asyncio.create_task(batcher.run())
        jobs = [asyncio.create_task(batcher.score(pairs_of("long", 40), None))]
        await settle()
        jobs += [asyncio.create_task(batcher.score(pairs_of(told, 1), told)) for told in ("a", "b")]
        await settle()
        model.release(30)
        await asyncio.gather(*jobs)
        assert {"a", "b"} <= set(model.instructions[:4])
        batcher.close()
        await runner

    run(scenario)


def test_a_full_queue_refuses_and_takes_again_when_there_is_room():
    async def scenario() -> None:
        model = Model(held=True)
        batcher = make_batcher(model, max_queue_pairs=10)
        runner = asyncio.create_task(batcher.run())
        first = asyncio.create_task(batcher.score(pairs_of("a", 10)))
        await settle()
        assert batcher.queued_pairs == 6  # four are with the model
        with pytest.raises(RequestError, match="6 pairs are waiting and this request has 5") as caught:
            await batcher.score(pairs_of("b", 5))
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
        second = asyncio.create_task(batcher.score(pairs_of("c", 4)))
        await settle()
        assert batcher.queued_pairs == 10
        model.release(10)
        assert [len(scores) for scores in await asyncio.gather(first, second)] == [10, 4]
        batcher.close()
        await runner

    run(scenario)


def test_what_nobody_waits_for_is_not_scored():
    async def scenario() -> None:
        model = Model(held=True)
        batcher = make_batcher(model)
        runner = asyncio.create_task(batcher.run())
        jobs = {name: asyncio.create_task(batcher.score(pairs_of(name, 6))) for name in ("gone", "here")}
        await settle()
        jobs["gone"].cancel()
        await settle()
        assert batcher.queued_pairs == 4
        model.release(10)
        assert len(await jobs["here"]) == 6
        later = [pair for batch in model.batches[1:] for pair in batch]
        assert {query for query, _ in later} == {"here"}
        batcher.close()
        await runner

    run(scenario)


def test_the_first_pair_waits_for_others_but_not_for_long():
    async def scenario() -> None:
        model = Model()
        batcher = make_batcher(model, batch_wait_s=0.05)
        runner = asyncio.create_task(batcher.run())
        loop = asyncio.get_running_loop()
        started = loop.time()
        first = asyncio.create_task(batcher.score(pairs_of("a", 1)))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, batcher.score(pairs_of("b", 1)))
        assert [len(batch) for batch in model.batches] == [2]
        assert 0.045 <= loop.time() - started < 1
        started = loop.time()
        await batcher.score(pairs_of("full", 4))
        assert loop.time() - started < 0.045
        batcher.close()
        await runner

    run(scenario)


def failing(error: Exception) -> Callable[[list[Pair], str | None], Awaitable[np.ndarray]]:
    async def model(pairs: list[Pair], _: str | None) -> np.ndarray:
        if pairs[0][0] == "bad":
            raise error
        return np.zeros(len(pairs), np.float32)

    return model


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("device lost"), 500), (MemoryError(), 500), (RequestError(422, "x", "y"), 422)],
)
def test_a_failed_batch_fails_its_requests_only(error, status):
    async def scenario() -> None:
        batcher = make_batcher(failing(error))
        runner = asyncio.create_task(batcher.run())
        with pytest.raises(RequestError) as caught:
            await batcher.score(pairs_of("bad", 9))
        assert caught.value.status == status
        assert batcher.queued_pairs == 0
        assert (await batcher.score(pairs_of("good", 9))).tolist() == [0.0] * 9
        batcher.close()
        await runner

    run(scenario)


class Poisoned(Model):
    """Fails a batch with "bad" in it, and says which of its pairs is the first bad one."""

    async def __call__(self, pairs: list[Pair], instruction: str | None) -> np.ndarray:
        scores = await super().__call__(pairs, instruction)
        bad = [place for place, (query, _) in enumerate(pairs) if query == "bad"]
        if bad:
            raise ValueError(f"the score of pair {bad[0]} is nan")
        return scores


def test_a_request_that_fails_its_batch_fails_alone_and_hears_of_its_own_pair():
    async def scenario() -> None:
        model = Poisoned()
        batcher = make_batcher(model, max_batch_pairs=16)
        jobs = [asyncio.create_task(batcher.score(pairs_of(name, 3))) for name in ("a", "bad", "b")]
        await settle()
        batcher.close()
        await batcher.run()
        first, bad, second = await asyncio.gather(*jobs, return_exceptions=True)
        for name, scores in (("a", first), ("b", second)):
            assert scores.tolist() == [fake_score(*pair) for pair in pairs_of(name, 3)]
        assert bad.status == 500
        assert "(ValueError: the score of pair 0 is nan)" in bad.message
        queries = [[query for query, _ in batch] for batch in model.batches]
        assert queries == [["a"] * 3 + ["bad"] * 3 + ["b"] * 3, ["a"] * 3, ["bad"] * 3, ["b"] * 3]

    run(scenario)


def test_a_long_request_that_fails_late_is_told_where_its_pairs_are_counted_from():
    async def model(pairs: list[Pair], _: str | None) -> np.ndarray:
        if ("long", "6") in pairs:
            raise ValueError(f"the score of pair {pairs.index(('long', '6'))} is nan")
        return np.zeros(len(pairs), np.float32)

    async def scenario() -> None:
        batcher = make_batcher(model)
        runner = asyncio.create_task(batcher.run())
        expected = "pair 2 is nan; its pairs are counted from pair 4 of the request"
        with pytest.raises(RequestError, match=expected):
            await batcher.score(pairs_of("long", 9))
        batcher.close()
        await runner

    run(scenario)


def test_a_request_that_nobody_waits_for_is_not_scored_again():
    async def scenario() -> None:
        model = Poisoned(held=True)
        batcher = make_batcher(model, max_batch_pairs=16)
        names = ("bad", "gone", "here")
        jobs = {name: asyncio.create_task(batcher.score(pairs_of(name, 2))) for name in names}
        runner = asyncio.create_task(batcher.run())
        await settle()
        jobs["gone"].cancel()
        model.release(3)
        assert len(await jobs["here"]) == 2
        assert [{query for query, _ in batch} for batch in model.batches] == [set(names), {"bad"}, {"here"}]
        batcher.close()
        await runner
        await asyncio.gather(*jobs.values(), return_exceptions=True)

    run(scenario)


def test_an_instruction_that_cannot_work_is_not_tried_for_each_request():
    calls = []

    async def model(pairs: list[Pair], _: str | None) -> np.ndarray:
        calls.append(len(pairs))
        raise RequestError(422, "x", "y")

    async def scenario() -> None:
        metrics = ServerMetrics()
        batcher = make_batcher(model, metrics=metrics)
        jobs = [asyncio.create_task(batcher.score(pairs_of(name, 1))) for name in "ab"]
        await settle()
        batcher.close()
        await batcher.run()
        answers = await asyncio.gather(*jobs, return_exceptions=True)
        assert [answer.status for answer in answers] == [422, 422]
        assert "prorank_batch_failures_total 0.0" in metrics.render().decode()  # it is the client's
        assert calls == [2]

    run(scenario)


@pytest.mark.parametrize("scores", [np.zeros(3, np.float32), np.zeros((2, 1), np.float32)])
def test_scores_of_a_wrong_shape_are_a_failure(scores):
    async def model(*_: Any) -> np.ndarray:
        return scores

    async def scenario() -> None:
        batcher = make_batcher(model)
        runner = asyncio.create_task(batcher.run())
        with pytest.raises(RequestError, match=r"scores of shape .* for 2 pairs"):
            await batcher.score(pairs_of("a", 2))
        batcher.close()
        await runner

    run(scenario)


def test_a_score_that_is_no_number_fails_its_own_request_only():
    async def model(pairs: list[Pair], _: str | None) -> np.ndarray:
        return np.array([np.nan if query == "bad" else 1.0 for query, _ in pairs], np.float32)

    async def scenario() -> None:
        metrics = ServerMetrics()
        batcher = make_batcher(model, metrics=metrics)
        jobs = [asyncio.create_task(batcher.score(pairs_of(name, 2))) for name in ("bad", "good")]
        await settle()
        batcher.close()
        await batcher.run()
        bad, good = await asyncio.gather(*jobs, return_exceptions=True)
        assert isinstance(bad, RequestError)
        assert bad.status == 500
        assert "(ValueError: a score is not a finite number)" in bad.message
        assert good.tolist() == [1.0, 1.0]
        assert "prorank_batch_failures_total 2.0" in metrics.render().decode()  # together, and alone

    run(scenario)


def test_a_closed_batcher_answers_what_it_has_and_takes_no_more():
    async def scenario() -> None:
        model = Model()
        batcher = make_batcher(model, batch_wait_s=60.0)
        job = asyncio.create_task(batcher.score(pairs_of("a", 2)))
        runner = asyncio.create_task(batcher.run())
        await settle()
        batcher.close()
        with pytest.raises(RequestError, match="shutting down"):
            await batcher.score(pairs_of("b", 1))
        assert len(await job) == 2
        await runner

    run(scenario)


def test_abort_answers_those_that_the_model_keeps_waiting():
    async def scenario() -> None:
        model = Model(held=True)
        batcher = make_batcher(model)
        runner = asyncio.create_task(batcher.run())
        jobs = [asyncio.create_task(batcher.score(pairs_of(name, 6))) for name in "ab"]
        await settle()
        batcher.close()
        batcher.abort()
        answers = await asyncio.gather(*jobs, return_exceptions=True)
        assert [getattr(answer, "status", None) for answer in answers] == [503, 503]
        model.release()
        await runner
        assert len(model.batches) == 1

    run(scenario)
