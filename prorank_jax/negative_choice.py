"""Which documents become the negatives of one query: hard ones out of a ranking, the others at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prorank_jax.config import DataOptions


class HardCount(NamedTuple):
    """Of one query's hard negatives: how many are wanted of its ranking, and how many are found there.

    `is_cut`: the ranking goes down to the last rank that is taken.
    """

    wanted: int
    found: int
    is_cut: bool


def _sample(random_state: random.Random, pool: Sequence[str], count: int) -> list[str]:
    return random_state.sample(pool, min(count, len(pool)))


def _sample_outside(
    random_state: random.Random, pool: Sequence[str], taken: set[str], count: int
) -> list[str]:
    """`count` distinct ids of the pool that are not taken, or all of them when there are fewer."""
    if len(pool) < 2 * (count + len(taken)):
        return _sample(random_state, [identifier for identifier in pool if identifier not in taken], count)
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        identifier = pool[random_state.randrange(len(pool))]
        if identifier not in taken:
            chosen[identifier] = None
    return list(chosen)


def _unjudged_in_window(grades: Mapping[str, int], ranking: Sequence[str], options: DataOptions) -> list[str]:
    window = ranking[options.negatives_from - 1 : options.negative_depth]
    return [identifier for identifier in window if identifier not in grades]


def count_hard(grades: Mapping[str, int], ranking: Sequence[str], options: DataOptions) -> HardCount:
    """How many hard negatives `choose_negatives` wants of a query's ranking, and how many it finds there."""
    judged = sum(grade < options.relevant_grade for grade in grades.values())
    wanted = max(options.hard_per_query - judged, 0)
    found = min(wanted, len(_unjudged_in_window(grades, ranking, options)))
    return HardCount(wanted, found, len(ranking) >= options.negative_depth)


def choose_negatives(
    grades: Mapping[str, int],
    ranking: Sequence[str],
    all_ids: Sequence[str],
    options: DataOptions,
    random_state: random.Random,
) -> list[str]:
    """Ids of `negatives_per_query` irrelevant documents for one query, hard ones first.

    The hard share is drawn from the documents judged below `relevant_grade`, which are sure, and when
    those run out from the ranks `negatives_from` to `negative_depth` that nobody judged. The rest, and what
    is missing, is drawn at random from the unjudged documents. Fewer come back only when the collection has
    no more.

    Args:
        ranking: of BM25 or another retriever, best first.
    """
    wanted, hard_count = options.negatives_per_query, options.hard_per_query
    judged = sorted(identifier for identifier, grade in grades.items() if grade < options.relevant_grade)
    chosen = _sample(random_state, judged, hard_count)
    chosen += _sample(random_state, _unjudged_in_window(grades, ranking, options), hard_count - len(chosen))
    chosen += _sample_outside(random_state, all_ids, {*grades, *chosen}, wanted - len(chosen))
    rest = [identifier for identifier in judged if identifier not in chosen]
    return chosen + _sample(random_state, rest, wanted - len(chosen))
