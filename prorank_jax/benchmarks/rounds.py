"""Rounds of two sides in turn, and what they amount to: medians and the ratio of each pair of rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Answer = dict[str, Any]


class Side(Protocol):
    """What answers requests; see `SideProcess`."""

    name: str

    def ask(self, request: str, **details: Any) -> Answer:
        """Sends a request and returns its answer."""
        ...


@dataclass(frozen=True)
class Round:
    """One measured round: seconds, units of work, and the peak memory so far in bytes (None: unknown).

    A side that counts them says how many programs it compiled in that time: none, after a warm-up.
    """

    seconds: float
    units: float
    peak_bytes: int | None = None
    compiled_again: int = 0

    @property
    def speed(self) -> float:
        """Units per second."""
        return self.units / self.seconds


@dataclass(frozen=True)
class Ratio:
    """How many times faster one side is than the other: median, least and greatest over pairs of rounds."""

    median: float
    min: float
    max: float


def read_round(side: str, answer: Answer) -> Round:
    """A round from a side's answer.

    Raises:
        ValueError: seconds or units that are no positive number.
    """
    for name in ("seconds", "units"):
        value = answer.get(name)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{side}: {name}={value!r} in its answer to round; a number above 0 is due")
    peak = answer.get("peak_bytes")
    return Round(
        float(answer["seconds"]),
        float(answer["units"]),
        None if peak is None else int(peak),
        int(answer.get("compiled_again", 0)),
    )


def alternate(
    sides: Sequence[Side],
    rounds: int,
    warmup: int,
    show: Callable[[str, int, Round], None] = lambda *_: None,
) -> dict[str, list[Round]]:
    """Runs one side at a time, in turn; each pass over the sides goes the other way round.

    Going there and back takes a steady drift of the machine out of the ratio.

    Args:
        sides: prepared.
        rounds: measured rounds of each side.
        warmup: rounds of each side before those, not kept.
        show: called after each round with the side's name, the number of the pass (below `warmup`: not
            kept), and the round.

    Returns:
        Side → its measured rounds.
    """
    kept: dict[str, list[Round]] = {side.name: [] for side in sides}
    for number in range(warmup + rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            done = read_round(side.name, side.ask("round"))
            show(side.name, number, done)
            if number >= warmup:
                kept[side.name].append(done)
    return kept


def median_speed(rounds: Sequence[Round]) -> float:
    """The median of the units per second."""
    return statistics.median(done.speed for done in rounds)


def speed_ratio(ours: Sequence[Round], theirs: Sequence[Round]) -> Ratio:
    """Our speed over theirs, of each pair of rounds that ran one after the other."""
    ratios = [our.speed / their.speed for our, their in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
