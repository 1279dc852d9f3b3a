"""Whether one system is better than another: a paired test and an interval over the queries.

The test is Fisher's randomization test, which Smucker, Allan and Carterette ("A comparison of statistical
significance tests for information retrieval evaluation", CIKM 2007) recommend for rankings: under the null
hypothesis the two systems' results of a query could as well be swapped, which flips the sign of their
difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MOST_EXACT = 16  # 2 ** 16 sign patterns are tried one by one
RANDOM_FLIPS = 100_000
RESAMPLES = 10_000
CONFIDENCE = 0.95
_ROWS = 2_000
_CELLS = 2**24  # bounds the memory of a step
# A mean over seeds that all tie differs from the tie by a rounding.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Comparison:
    """One system against another, query by query.

    Attributes:
        delta: mean difference of the metric.
        p_value: of the two-sided randomization test.
        interval: 95% bootstrap interval of the mean difference.
        wins, ties, losses: queries that are better, equal, worse.
    """

    delta: float
    p_value: float
    interval: tuple[float, float]
    wins: int
    ties: int
    losses: int


def _steps(total: int, count: int) -> list[int]:
    """Numbers of rows of `count` values that add up to `total`; fewer at once where rows are long."""
    rows = max(1, min(_ROWS, _CELLS // count))
    return [min(rows, total - start) for start in range(0, total, rows)]


def _all_patterns(count: int) -> np.ndarray:
    """uint8 [2 ** count, count]: every choice of signs."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.uint8)


def _random_patterns(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """uint8 [rows, count] of fair bits."""
    width = -(-count // 8)
    packed = np.frombuffer(rng.bytes(rows * width), np.uint8).reshape(rows, width)
    return np.unpackbits(packed, axis=1, count=count)


def randomization_p_value(differences: np.ndarray, flips: int = RANDOM_FLIPS, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference under random flips of sign.

    Exact for up to 16 differences that are not zero; else from random flips, where the observed signs
    count as one of them, so that the value is never 0.

    Args:
        differences: [n] float, one for each query.
        flips: random sign patterns.
        seed: of those.
    """
    nonzero = np.asarray(differences, np.float64)
    nonzero = nonzero[nonzero != 0]
    if not len(nonzero):
        return 1.0
    # Sums that are equal on paper may differ by rounding.
    threshold = abs(nonzero.sum()) - 1e-9 * np.abs(nonzero).sum()

    def extreme(patterns: np.ndarray) -> int:
        return int(np.count_nonzero(np.abs(2 * (patterns @ nonzero) - nonzero.sum()) >= threshold))

    if len(nonzero) <= MOST_EXACT:
        patterns = _all_patterns(len(nonzero))
        return extreme(patterns) / len(patterns)
    rng = np.random.default_rng(seed)
    found = sum(extreme(_random_patterns(rng, rows, len(nonzero))) for rows in _steps(flips, len(nonzero)))
    return (found + 1) / (flips + 1)


def bootstrap_interval(
    values: np.ndarray, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of [n] values, from resamples of the queries with a fixed seed."""
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    steps, count = _steps(resamples, len(values)), len(values)
    drawn = [values[rng.integers(count, size=(rows, count))].mean(axis=1) for rows in steps]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail])
    return float(low), float(high)


def compare(new: Mapping[str, float], old: Mapping[str, float]) -> Comparison:
    """Compares two systems on the same queries (query id → value of one metric).

    Raises:
        ValueError: the queries are not the same, or there is none.
    """
    if new.keys() != old.keys() or not new:
        raise ValueError(
            f"compare: {len(new)} and {len(old)} queries; give both systems the same, at least 1"
        )
    differences = np.array([new[query] - old[query] for query in new])
    differences[np.abs(differences) < _EQUAL] = 0.0
    return Comparison(
        delta=float(differences.mean()),
        p_value=randomization_p_value(differences),
        interval=bootstrap_interval(differences),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
    )


def as_json(result: Any) -> dict[str, Any]:
    """The fields of a `Comparison` or a `comparison.Standing`, as JSON gives them back."""
    return {**asdict(result), "interval": list(result.interval)}
