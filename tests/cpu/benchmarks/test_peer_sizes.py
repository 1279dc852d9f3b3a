"""A peer takes the fastest of the sizes it is offered, and looks no further than it must."""

from __future__ import annotations

import pytest

from tests.cpu.benchmarks.peers import load_peer


class Clock:
    """Sizes that take so many seconds, of a clock of their own; a negative number: no memory."""

    def __init__(self, seconds: dict[int, list[float]]) -> None:
        self.now, self.ran = 0.0, []
        self._left = {size: list(times) for size, times in seconds.items()}

    def run(self, size: int) -> None:
        self.ran.append(size)
        times = self._left[size]
        taken = times.pop(0) if len(times) > 1 else times[0]
        if taken < 0:
            raise MemoryError
        self.now += taken


@pytest.fixture
def tuned(monkeypatch):
    tuning = load_peer("tuning")

    def tune(seconds: dict[int, list[float]], **options):
        clock = Clock(seconds)
        monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock.now)
        return tuning.fastest(list(seconds), clock.run, no_room=(MemoryError,), **options), clock.ran

    return tune


def test_the_search_ends_where_larger_ones_are_slower(tuned):
    (chosen, seconds), ran = tuned({1: [9, 4], 2: [3], 4: [3.1], 8: [3.5], 16: [1]})
    assert chosen == 2
    assert seconds == pytest.approx({"1": 4, "2": 3, "4": 3.1, "8": 3.5})
    assert ran == [1, 1, 2, 4, 8]


def test_the_largest_may_be_the_fastest(tuned):
    (chosen, _), _ = tuned({8: [4, 4], 16: [3], 32: [2]})
    assert chosen == 32


def test_repeated_each_size_is_warm_and_its_best_counts(tuned):
    (chosen, seconds), ran = tuned({8: [90, 5, 4, 6], 16: [90, 3, 5, 4], 32: [90, 9, 9, 9]}, repeats=3)
    assert chosen == 16
    assert seconds == pytest.approx({"8": 4, "16": 3, "32": 9})
    assert ran == [8] * 4 + [16] * 4 + [32] * 4


def test_a_size_without_room_ends_the_search(tuned):
    (chosen, seconds), _ = tuned({8: [4, 4], 16: [-1], 32: [2]})
    assert chosen == 8
    assert list(seconds) == ["8"]
    with pytest.raises(MemoryError):
        tuned({8: [-1], 16: [2]})
