"""A run of another retriever, whose rankings hard negatives come from in place of BM25's."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Any

from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.messages import name_a_few
from prorank_jax.named_files import hash_file, negatives_file
from prorank_jax.trec import read_run

_log = logging.getLogger(__name__)


def ranking_content(options: DataOptions) -> dict[str, Any]:
    """What it adds to what names examples; nothing where BM25's best are taken, as before there was a choice.

    Raises:
        ValueError: no such file.
    """
    file = negatives_file(options)
    first = {} if options.negatives_from == 1 else {"negatives_from": options.negatives_from}
    return first if file is None else first | {"negatives_run": hash_file(file)}


def check_negatives_run(options: DataOptions, queries: Set[str], *, are_all_used: bool = True) -> None:
    """Refuses what `read_negatives_run` would refuse, but for documents, at which it does not look.

    Args:
        queries: ids of those to train on.
        are_all_used: else they are those that may be trained on: a run that lacks some of them is told of,
            and one that lacks all is refused.

    Raises:
        ValueError: as `read_negatives_run`.
    """
    file = negatives_file(options)
    if file is None:
        return
    run = read_run(file, queries)
    lacking = queries - run.keys()
    if lacking and run and not are_all_used:
        told = (
            "data.negatives_run=%r: lacks %d of %d queries (%s); it is refused if one of them is trained on"
        )
        _log.warning(told, options.negatives_run, len(lacking), len(queries), name_a_few(lacking))
        return
    _refuse_lacking(options, queries, lacking)


def read_negatives_run(options: DataOptions, collection: Collection) -> dict[str, list[str]] | None:
    """Query id → document ids, best first and no deeper than `negative_depth`; None where BM25 finds them.

    A query that the run lacks would get other negatives than the others and nobody would see it.

    Args:
        collection: with the judgements of the queries to train on; other queries of the run are left out.

    Raises:
        ValueError: no such file, no run, one that lacks a query with a relevant document, or one that ranks
            documents which the collection lacks.
    """
    file = negatives_file(options)
    if file is None:
        return None
    judged = collection.qrels.items()
    answered = {query for query, grades in judged if max(grades.values()) >= options.relevant_grade}
    run = read_run(file, answered)
    _refuse_lacking(options, answered, answered - run.keys())
    absent = {document for ranking in run.values() for document in ranking} - collection.documents.keys()
    if absent:
        raise ValueError(
            f"data.negatives_run={options.negatives_run!r}: ranks {len(absent)} documents that "
            f"{collection.name} lacks ({name_a_few(absent)}); give a run of this collection"
        )
    return {query: ranking[: options.negative_depth] for query, ranking in run.items()}


def _refuse_lacking(options: DataOptions, queries: Set[str], lacking: Set[str]) -> None:
    if lacking:
        raise ValueError(
            f"data.negatives_run={options.negatives_run!r}: lacks {len(lacking)} of the {len(queries)} "
            f"queries to train on ({name_a_few(lacking)}); give a run of all of them"
        )
