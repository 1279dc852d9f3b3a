"""Whether two sides compute the same thing: without that, a ratio of their speeds says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """How far two sides' values are apart.

    Attributes:
        values: how many were compared.
        largest_difference: the greatest |a − b| / max(1, |a|).
        tolerance: what it may be.
    """

    values: int
    largest_difference: float
    tolerance: float


def compare_values(
    names: tuple[str, str], ours: Sequence[float], theirs: Sequence[float], tolerance: float
) -> Agreement:
    """Compares values that both sides computed from the same input.

    Args:
        names: of the two sides, for messages.
        tolerance: on |a − b| / max(1, |a|): absolute for small values, relative for large ones.

    Raises:
        ValueError: no values, another number of them, one that is no finite number, or a difference above
            the tolerance.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(
            f"check: {names[0]} gave {len(ours)} values and {names[1]} {len(theirs)}; "
            "both must give the same number, at least one"
        )
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    for name, values in zip(names, (a, b), strict=True):
        if not np.isfinite(values).all():
            raise ValueError(f"check: value {int(np.argmin(np.isfinite(values)))} of {name} is not finite")
    apart = np.abs(a - b) / np.maximum(1, np.abs(a))
    worst = int(np.argmax(apart))
    if apart[worst] > tolerance:
        raise ValueError(
            f"check: value {worst} is {a[worst]:.6g} by {names[0]} and {b[worst]:.6g} by {names[1]}, "
            f"{apart[worst]:.2g} apart where {tolerance:g} is allowed: they do not compute the same, so "
            "their speeds are not compared"
        )
    return Agreement(len(ours), float(apart[worst]), tolerance)


def compare_timed(name: str, answer: Mapping[str, Any], tolerance: float) -> Agreement | None:
    """Compares what a side's timed program gave, `timed`, with its plain computation of the same, `plain`.

    Returns:
        None where the side's timed program is the one whose values are compared with the other side's.

    Raises:
        ValueError: as `compare_values`.
    """
    if "timed" not in answer:
        return None
    names = f"the timed program of {name}", "a plain computation"
    return compare_values(names, answer["timed"], answer["plain"], tolerance)
