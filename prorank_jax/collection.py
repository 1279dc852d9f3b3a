"""A retrieval collection in memory: documents, queries and graded judgements."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from prorank_jax.messages import name_a_few
from prorank_jax.types import Document

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """Documents, queries and the judgements of one split.

    Attributes:
        name: what messages call it, e.g. `demo/train`.
        documents: document id → document; all of them, but for `unread`.
        queries: query id → text, also those that this split does not judge.
        qrels: query id → document id → grade; 0 or less is not relevant.
        unread: ids of documents that are there, but whose texts were not asked for, among those that
            judgements or a `Choice` name.
        size: how many documents there are; None: those in `documents`.
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    unread: frozenset[str] = frozenset()
    size: int | None = None

    def holds(self, document: str) -> bool:
        """Whether a document is there, of those that are read or named."""
        return document in self.documents or document in self.unread

    @property
    def document_count(self) -> int:
        """How many documents there are, read or not."""
        return len(self.documents) if self.size is None else self.size


class Named(NamedTuple):
    """The documents of a collection that are needed, where the others are not read.

    Attributes:
        texts: ids of those whose texts are.
        ids: of which it must be known whether they are there.
    """

    texts: set[str]
    ids: set[str]


Choice = Callable[[Collection], Named]
"""Tells from a collection without documents which are needed; its judged ones are known anyway."""


def absent_ids(collection: Collection) -> tuple[set[str], set[str]]:
    """The query ids and the document ids that are judged but not there."""
    queries = set(collection.qrels) - set(collection.queries)
    judged = {document for grades in collection.qrels.values() for document in grades}
    return queries, {document for document in judged if not collection.holds(document)}


def check_collection(collection: Collection, remedy: str, *, measured: bool = False) -> Collection:
    """Returns the collection when it can be trained on, or measured on.

    Args:
        measured: judgements of some absent documents are told of and stay: as trec_eval and BEIR count
            them, no ranking finds these documents. ArguAna has such.

    Raises:
        ValueError: no documents, queries or judgements, an empty query, or judgements that name
            absent documents or queries.
    """
    sizes = {
        "documents": collection.document_count,
        "queries": len(collection.queries),
        "qrels": len(collection.qrels),
    }
    for part, size in sizes.items():
        if not size:
            raise ValueError(f"{collection.name}: holds no {part}; {remedy}")
    empty = [identifier for identifier, text in collection.queries.items() if not text.strip()]
    if empty:
        raise ValueError(
            f"{collection.name}: {len(empty)} queries have an empty text ({name_a_few(empty)}); "
            "give each query a text or leave it out"
        )
    absent_queries, absent_documents = absent_ids(collection)
    if absent_queries:
        raise ValueError(
            f"{collection.name}: the judgements name {len(absent_queries)} absent queries "
            f"({name_a_few(absent_queries)}); {remedy}"
        )
    some_are_there = any(collection.holds(document) for g in collection.qrels.values() for document in g)
    if absent_documents and measured and some_are_there:
        name, some = collection.name, name_a_few(absent_documents)
        told = "%s: %d judged documents are absent, and count as not found: %s"
        _log.warning(told, name, len(absent_documents), some)
    elif absent_documents:
        raise ValueError(
            f"{collection.name}: the judgements name {len(absent_documents)} absent documents "
            f"({name_a_few(absent_documents)}); {remedy}"
        )
    return collection
