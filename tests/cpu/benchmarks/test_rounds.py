from __future__ import annotations

import pytest

from prorank_jax.benchmarks.rounds import Ratio, Round, alternate, median_speed, read_round, speed_ratio


class Counting:
    """A side whose n-th round takes n seconds; it notes in a shared diary that it was asked."""

    def __init__(self, name, diary):
        self.name, self.diary, self.count = name, diary, 0

    def ask(self, request, **details):
        assert (request, details) == ("round", {})
        self.count += 1
        self.diary.append(f"{self.name}{self.count}")
        return {"seconds": self.count, "units": 2}


def test_sides_take_turns_there_and_back_and_warm_up_rounds_are_not_kept():
    diary = []
    kept = alternate([Counting("a", diary), Counting("b", diary)], rounds=3, warmup=1)
    assert diary == ["a1", "b1", "b2", "a2", "a3", "b3", "b4", "a4"]
    assert kept == {name: [Round(float(n), 2.0) for n in (2, 3, 4)] for name in "ab"}


def test_each_round_is_shown_with_its_number():
    shown = []
    sides = [Counting("a", []), Counting("b", [])]
    alternate(sides, 1, 1, show=lambda name, number, done: shown.append((name, number, done.seconds)))
    assert shown == [("a", 0, 1.0), ("b", 0, 1.0), ("b", 1, 2.0), ("a", 1, 2.0)]


def test_a_steady_drift_leaves_the_ratio_of_two_equal_sides_around_one():
    clock = iter(range(10, 50))

    class Slower:
        def __init__(self, name):
            self.name = name

        def ask(self, *_, **__):
            return {"seconds": next(clock), "units": 1}

    kept = alternate([Slower("a"), Slower("b")], rounds=6, warmup=0)
    ratio = speed_ratio(kept["a"], kept["b"])
    assert ratio.min < 1 < ratio.max
    assert ratio.median == pytest.approx(1, abs=0.01)


def test_the_ratio_is_of_speeds_and_its_median_is_of_pairs():
    ours = [Round(1, 8), Round(2, 8), Round(4, 8)]  # 8, 4, 2 a second
    theirs = [Round(2, 2), Round(1, 2), Round(1, 1)]  # 1, 2, 1 a second
    assert speed_ratio(ours, theirs) == Ratio(median=2, min=2, max=8)
    assert median_speed(ours) == 4


@pytest.mark.parametrize(
    "answer",
    [{}, {"seconds": 0, "units": 1}, {"seconds": float("nan"), "units": 1}, {"seconds": 1, "units": "many"}],
)
def test_a_round_without_time_or_work_is_refused(answer):
    with pytest.raises(ValueError, match=r"torch: (seconds|units)=.*a number above 0"):
        read_round("torch", answer)


def test_programs_that_a_side_compiled_in_a_round_are_known():
    answer = {"seconds": 1.0, "units": 2}
    assert read_round("ours", answer).compiled_again == 0
    assert read_round("ours", answer | {"compiled_again": 3}).compiled_again == 3
