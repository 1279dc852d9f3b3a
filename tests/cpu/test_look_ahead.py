"""Results come in order, and only so much work is begun before its time."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from prorank_jax.look_ahead import results_ahead


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_so_many_more_are_begun_before_one_is_given(ahead):
    begun = []

    def submit(number: int) -> Future[int]:
        begun.append(number)
        done: Future[int] = Future()
        done.set_result(number)
        return done

    given = []
    for result in results_ahead(map(submit, range(9)), ahead):
        given.append(result)
        assert len(begun) == min(9, len(given) + ahead)
    assert given == list(range(9))


def test_an_error_comes_in_its_turn():
    good, bad = Future(), Future()
    good.set_result("fine")
    bad.set_exception(ValueError("no such text"))
    found = results_ahead(iter([good, bad]), 1)
    assert next(found) == "fine"
    with pytest.raises(ValueError, match="no such text"):
        next(found)
