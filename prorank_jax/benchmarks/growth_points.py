"""The points of the growth curves: which step, and which one size of it grows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prorank_jax.config_checks import require, require_at_least, require_choice

GROUP, LENGTH, BATCH, LIST_SIZE = "group", "length", "batch", "list_size"
AXES = {
    GROUP: "completions of a prompt (G)",
    LENGTH: "prompt length (tokens)",
    BATCH: "prompts, or lists, of a batch",
    LIST_SIZE: "documents of a list (K)",
}
PROGRAMS = {"1": "stage 1", "2": "stage 2", "score": "scoring"}


@dataclass(frozen=True)
class Size:
    """The sizes of a step; checked when built.

    Attributes:
        group: completions G of each prompt, in stage 1; a group of one learns nothing, but costs something.
        length: of each prompt in tokens.
        batch: prompts, in stage 2 lists.
        list_size: documents K of each list, in stage 2.
        shortest: prompts of stage 1 are this long to `length`; None: all are `length`.
        shared: tokens that all of those begin with.
    """

    group: int = 16
    length: int = 128
    batch: int = 4
    list_size: int = 4
    shortest: int | None = None
    shared: int = 0

    def __post_init__(self) -> None:
        require_at_least("group", self.group, 1)
        require_at_least("length", self.length, 16)
        require_at_least("batch", self.batch, 1)
        require_at_least("list_size", self.list_size, 2)
        shortest = self._shortest
        require(1 <= shortest <= self.length, "shortest", shortest, f"from 1 to max_length={self.length}")
        require(
            0 <= self.shared < shortest, "shared", self.shared, f"less than the shortest prompt ({shortest})"
        )

    @property
    def _shortest(self) -> int:
        return self.length if self.shortest is None else self.shortest

    def prompt_lengths(self) -> np.ndarray:
        """Tokens of each prompt of stage 1, spread evenly, in any order: [B] int32."""
        spread = np.linspace(self._shortest, self.length, self.batch).round().astype(np.int32)
        return np.random.default_rng(0).permutation(spread)


@dataclass(frozen=True)
class Point:
    """One place on a curve.

    Attributes:
        program: of `PROGRAMS`.
        axis: of `AXES`, the size that grows along the curve.
        value: of that size.
        size: all of them.
    """

    program: str
    axis: str
    value: int
    size: Size


@dataclass(frozen=True)
class Measured:
    """What a point took.

    Attributes:
        seconds: of each round.
        planned_bytes: arguments and temporaries, as the compiler planned them.
        peak_bytes: of a process that ran nothing else; None: not measured.
    """

    point: Point
    seconds: Sequence[float]
    planned_bytes: int
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)


_LENGTHS = (128, 256, 512, 1024, 2048, 4096)
# Which sizes grow, and the others: long rows come few at a time, so that memory holds the longest.
_SCALE = (1, 2, 4, 8, 16, 32, 64)
CURVES: Mapping[tuple[str, str], tuple[tuple[int, ...], Mapping[str, Any]]] = {
    ("1", GROUP): (_SCALE, {"batch": 8}),
    ("1", LENGTH): (_LENGTHS, {"batch": 2}),
    ("1", BATCH): (_SCALE[1:5], {}),
    ("2", LIST_SIZE): (_SCALE[1:5], {"batch": 1}),
    ("2", LENGTH): (_LENGTHS, {"batch": 1, "list_size": 2}),
    ("2", BATCH): (_SCALE[:4], {"list_size": 4}),
    ("score", LENGTH): (_LENGTHS, {"batch": 2}),
    ("score", BATCH): (_SCALE[:6], {}),
}


def points_of(
    programs: Iterable[str], longest: int, length: int, axes: Sequence[str] = tuple(AXES)
) -> list[Point]:
    """Every point of the curves of some programs.

    Args:
        axes: the sizes whose curves are wanted.
        longest: prompts no longer than this are on the curves over length.
        length: of prompts on the other curves.

    Raises:
        ValueError: an unknown program or size, lengths that leave no curve, or sizes over which the programs
            have none.
    """
    for axis in axes:
        require_choice("curves", axis, tuple(AXES))
    points = []
    for program in programs:
        require_choice("program", program, tuple(PROGRAMS))
        for (of, axis), (values, others) in CURVES.items():
            if of != program or axis not in axes:
                continue
            kept = [value for value in values if axis != LENGTH or value <= longest]
            remedy = f"from 256, so that a curve over the length has two points, to {_LENGTHS[-1]}"
            require(len(kept) > 1 and longest <= _LENGTHS[-1], "longest", longest, remedy)
            points += [
                Point(program, axis, value, Size(**{"length": length, **others, axis: value}))
                for value in kept
            ]
    require(bool(points), "curves", " ".join(axes), "none of the programs asked for has a curve over these")
    return points
