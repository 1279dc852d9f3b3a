"""Which documents of a collection an evaluation needs, where runs name the candidates."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence

from prorank_jax.trec import Scores


def texts_needed(
    first_stage: Scores, compared: Scores, asked: Container[str], queries: Sequence[str], depth: int
) -> set[str]:
    """Ids of the documents whose texts are scored, shown, or may be the very query that ranks them.

    Args:
        first_stage, compared: query id → document id → score, the documents best first.
        asked: ids of all queries of the collection.
        queries: those that are measured.
        depth: documents of a query that are scored or shown, once the query itself is dropped.
    """
    rankings = itertools.chain(first_stage.items(), compared.items())
    texts = {query for query, ranking in rankings if query in ranking and query in asked}
    for query in queries:
        texts.update(itertools.islice(first_stage.get(query, ()), depth + 1))
    return texts


def ids_named(run: Scores, asked: Container[str]) -> set[str]:
    """Ids of all documents that a run ranks for queries of the collection."""
    return {document for query, ranking in run.items() if query in asked for document in ranking}
