"""Scores each pair once, and refuses scores that are no numbers.

In batches of different shapes the scores of equal pairs would differ by a rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np

from prorank_jax.input_checks import Pair

OnScored = Callable[[int], None]


def places_of(pairs: Iterable[Pair]) -> dict[Pair, int]:
    """Each different pair once, in the order in which they first come, and its place in that order."""
    return {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}


def score_unique(
    score_chunks: Callable[[Iterable[Sequence[Pair]], OnScored | None], Generator[np.ndarray]],
    chunks: Iterable[Sequence[Pair]],
    on_scored: OnScored | None,
) -> Generator[np.ndarray]:
    """The scores [n] of each chunk of n pairs, those of equal pairs in a chunk equal to the bit.

    Args:
        score_chunks: is given chunks without twins, and may take some before it gives scores.
        chunks: of pairs.
        on_scored: is told how many more pairs have their scores, twins included.
    """
    taken: deque[tuple[Sequence[Pair], dict[Pair, int]]] = deque()

    def without_twins() -> Iterator[Sequence[Pair]]:
        for pairs in chunks:
            places = places_of(pairs)
            taken.append((pairs, places))
            yield list(places)

    with closing(score_chunks(without_twins(), on_scored)) as found:
        for scores in found:
            pairs, places = taken.popleft()
            if on_scored and len(places) < len(pairs):
                on_scored(len(pairs) - len(places))
            yield scores[[places[pair] for pair in pairs]] if pairs else scores


def check_finite(source: str, scores: np.ndarray) -> None:
    """Refuses scores of a model that cannot rank.

    Raises:
        ValueError: one is NaN or infinite.
    """
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(
            f"model.source={source!r}: the score of pair {bad[0]} is {scores[bad[0]]}; its weights "
            "are damaged or its numbers too large for this compute_dtype; try float32, or another model"
        )
