"""A model that fails is told from requests that cannot be scored, and from one that works again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from prorank_jax.serving import model_watch
from prorank_jax.serving.model_watch import TRACEBACKS_IN_A_ROW, ModelWatch


class Model:
    """Fails so many tries, then works; counts them."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tries = 0

    async def __call__(self) -> None:
        await asyncio.sleep(0)
        self.tries += 1
        if self.tries <= self.failures:
            raise RuntimeError("device lost")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(model_watch, "RETRY_S", 0.0)


def raised(text: str) -> Exception:
    """An error with a traceback."""
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


def watched(model: Model, scenario: Callable[[ModelWatch], Awaitable[None]]) -> None:
    async def run() -> None:
        watch = ModelWatch(model)
        watching = asyncio.create_task(watch.run())
        await scenario(watch)
        watching.cancel()

    asyncio.run(asyncio.wait_for(run(), 20))


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_model_is_not_tried_before_a_batch_failed():
    model = Model(0)

    async def scenario(watch: ModelWatch) -> None:
        watch.note_success()
        await settle()
        assert (model.tries, watch.is_failing) == (0, False)

    watched(model, scenario)


def test_requests_that_cannot_be_scored_do_not_make_a_model_fail():
    model = Model(0)

    async def scenario(watch: ModelWatch) -> None:
        for count in range(1, 6):
            watch.note_failure(1, raised("too long"))
            for _ in range(50):
                await asyncio.sleep(0)
                assert not watch.is_failing
            assert model.tries == count

    watched(model, scenario)


def test_a_model_fails_until_a_try_of_it_works(caplog):
    model = Model(3)

    async def scenario(watch: ModelWatch) -> None:
        watch.note_failure(1, raised("device lost"))
        seen = []
        for _ in range(50):
            await asyncio.sleep(0)
            seen.append((model.tries, watch.is_failing))
        assert {tries for tries, is_failing in seen if is_failing} >= {1, 2}
        assert seen[-1] == (4, False)

    watched(model, scenario)
    assert caplog.text.count("the model fails") == caplog.text.count("the model works again") == 1


def test_a_fault_after_the_model_worked_again_is_told_with_its_place(caplog):
    model = Model(0)

    async def scenario(watch: ModelWatch) -> None:
        for number in range(TRACEBACKS_IN_A_ROW + 2):
            watch.note_failure(7, raised(f"fault {number}"))
            for _ in range(9):
                await asyncio.sleep(0)

    watched(model, scenario)
    assert caplog.text.count("Traceback") == TRACEBACKS_IN_A_ROW + 2


def test_the_log_says_of_every_batch_that_it_failed_and_where_for_the_first_in_a_row(caplog):
    async def scenario(watch: ModelWatch) -> None:
        for _ in range(2):
            for number in range(TRACEBACKS_IN_A_ROW + 2):
                watch.note_failure(7, raised(f"fault\n{number}"))
            watch.note_success()

    watched(Model(0), scenario)
    assert len(caplog.records) == 2 * (TRACEBACKS_IN_A_ROW + 2)
    assert caplog.text.count("Traceback") == 2 * TRACEBACKS_IN_A_ROW
    last = f"the model could not score 7 pairs (RuntimeError: fault {TRACEBACKS_IN_A_ROW + 1})"
    assert caplog.messages[-1] == last


def test_a_model_that_never_answers_is_failing_until_it_does(caplog):
    async def scenario() -> None:
        watch = ModelWatch(Model(0), longest_batch_s=0.01)
        with watch.working():
            assert not watch.is_failing
            await asyncio.sleep(0.1)
            assert watch.is_failing
            with watch.working():  # a try that waits for its turn on the same thread
                await asyncio.sleep(0.1)
            assert watch.is_failing
        assert not watch.is_failing

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert caplog.text.count("has not answered for 0.01 s") == 2
    assert caplog.text.count("the model answers again") == 2


def test_of_a_wait_that_is_given_up_nobody_says_that_it_ended_well(caplog):
    watches: list[ModelWatch] = []

    async def wait() -> None:
        watches.append(ModelWatch(Model(0), longest_batch_s=0.01))
        with watches[0].working():
            await asyncio.sleep(60)

    async def scenario() -> None:
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert "has not answered" in caplog.text
    assert "answers again" not in caplog.text
    assert not watches[0].is_failing


def test_a_batch_in_time_says_nothing(caplog):
    async def scenario() -> None:
        watch = ModelWatch(Model(0), longest_batch_s=1.0)
        for _ in range(3):
            with watch.working():
                await asyncio.sleep(0)
        await asyncio.sleep(1.2)
        assert not watch.is_failing

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert not caplog.records
