"""What a model gains on queries whose relevant documents it saw in training, and on the others.

Splits by query may share documents: in SciFact most queries of `dev` have a relevant abstract that answers a
query of `train`, too, and queries made from documents ask for any of them. Such a gain may be memory of the
document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from prorank_jax.evaluation.significance import as_json, compare
from prorank_jax.reproduce.rows import TITLES, TRAINED

ALL, UNSEEN, SEEN = "all", "unseen", "seen"
GROUPS = (ALL, UNSEEN, SEEN)

# query id → document id → grade
Judgements = Mapping[str, Mapping[str, int]]
# query id → nDCG@10
QueryValues = Mapping[str, float]


def _relevant(grades: Mapping[str, int]) -> set[str]:
    return {document for document, grade in grades.items() if grade > 0}


def group_queries(
    queries: Iterable[str], measured: Judgements, trained: Judgements, made: Set[str] = frozenset()
) -> dict[str, tuple[str, ...]]:
    """Group → query ids in the given order: all, those with unseen documents, and the others.

    A query's documents are unseen when none that is relevant for it (grade 1 or higher) is relevant for a
    query of the training split, or for one that was made for training.

    Args:
        queries: ids of the measured queries, all judged in `measured`.
        measured, trained: judgements of the measured and of the training split.
        made: ids of the documents that made queries ask for.
    """
    seen_documents = set(made).union(*map(_relevant, trained.values()))
    every = tuple(queries)
    is_unseen = {query: _relevant(measured[query]).isdisjoint(seen_documents) for query in every}
    unseen = tuple(query for query in every if is_unseen[query])
    return {ALL: every, UNSEEN: unseen, SEEN: tuple(query for query in every if not is_unseen[query])}


def _gain(values: QueryValues, first_stage: QueryValues, queries: Iterable[str]) -> dict[str, Any] | None:
    chosen = list(queries)
    if not chosen:
        return None
    new, old = ({query: part[query] for query in chosen} for part in (values, first_stage))
    return as_json(compare(new, old))


def overlap_content(
    groups: Mapping[str, tuple[str, ...]], rows: Mapping[str, QueryValues], first_stage: QueryValues
) -> dict[str, Any]:
    """The entry `training_overlap` of ablation.json: gains over the first stage, group by group.

    Args:
        groups: as `group_queries` makes them.
        rows: row → nDCG@10 of each query; rows that are not trained are left out.
        first_stage: nDCG@10 of each query.
    """
    return {
        "queries": {group: len(queries) for group, queries in groups.items()},
        "rows": [
            {
                "row": row,
                "title": TITLES[row],
                **{group: _gain(rows[row], first_stage, queries) for group, queries in groups.items()},
            }
            for row in TRAINED
            if row in rows
        ],
    }
