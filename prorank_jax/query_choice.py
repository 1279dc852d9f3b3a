"""Which queries of a split become examples: all, or none that is held out, or a sample."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from prorank_jax.collection import Collection
from prorank_jax.query_texts import plain, texts_digest
from prorank_jax.types import RankingGroup


@dataclass(frozen=True)
class QueryChoice:
    """Which queries to use.

    Attributes:
        held_out: `query_texts.plain` texts; queries that are one of them are left out.
        most: at most so many queries with a relevant document, drawn by the seed; None: all.
    """

    held_out: Set[str] = frozenset()
    most: int | None = None

    def deciding_content(self) -> dict[str, Any]:
        """What it adds to what names examples; nothing where all are used, as before there was a choice."""
        left_out = {"held_out": texts_digest(self.held_out)} if self.held_out else {}
        return left_out | ({} if self.most is None else {"most_queries": self.most})


ALL_QUERIES = QueryChoice()


def choose_queries(collection: Collection, choice: QueryChoice, relevant_grade: int, seed: int) -> Collection:
    """The collection with the judgements of the chosen queries, and of those without a relevant document.

    Raises:
        ValueError: all are held out.
    """
    texts, qrels = collection.queries, collection.qrels
    kept = [query for query in qrels if plain(texts[query]) not in choice.held_out]
    _refuse_none(kept, collection.name)
    answered = [query for query in kept if max(qrels[query].values()) >= relevant_grade]
    surplus = set(answered) - _drawn(answered, choice.most, seed)
    return dataclasses.replace(
        collection, qrels={query: qrels[query] for query in kept if query not in surplus}
    )


def choose_groups(
    groups: Sequence[RankingGroup], choice: QueryChoice, name: str, seed: int
) -> list[RankingGroup]:
    """The groups of the chosen queries; each has a relevant document.

    Raises:
        ValueError: all are held out.
    """
    kept = [group for group in groups if plain(group.query) not in choice.held_out]
    _refuse_none(kept, name)
    drawn = _drawn([group.query_id for group in kept], choice.most, seed)
    return [group for group in kept if group.query_id in drawn]


def _drawn(queries: Sequence[str], most: int | None, seed: int) -> set[str]:
    if most is None or len(queries) <= most:
        return set(queries)
    return set(random.Random(f"{seed}:queries").sample(sorted(queries), most))


def _refuse_none(kept: Sequence[object], name: str) -> None:
    if not kept:
        raise ValueError(
            f"{name}: every query is held out for the probe too; hold out other queries (data.probe_split)"
        )
