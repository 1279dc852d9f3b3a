"""Loads collections by their id from the library ir_datasets, which downloads what is missing."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prorank_jax.collection import Choice, Collection, absent_ids, check_collection
from prorank_jax.messages import name_a_few
from prorank_jax.named_documents import find_named, with_found
from prorank_jax.source_names import CATALOGUE_PREFIX, TRAINED_ON, find_dataset, nearest_ids
from prorank_jax.storage_faults import refusal_of
from prorank_jax.types import Document

_TEXT_FIELDS = ("text", "body", "abstract", "contents")

_log = logging.getLogger(__name__)


def _check_parts(dataset: Any, identifier: str, named: str) -> None:
    missing = [part for part in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{part}")()]
    if missing:
        nearest = nearest_ids(identifier)
        hint = f"; try {' or '.join(nearest)}" if nearest else ""
        raise ValueError(
            f"{named}: has no {', '.join(missing)}; name an id with documents, queries and qrels{hint}"
        )


def _to_document(record: Any) -> Document:
    text = next(filter(None, (_string(record, name) for name in _TEXT_FIELDS)), "")
    if not text:
        return Document(record.doc_id, record.default_text())
    return Document(record.doc_id, text, _string(record, "title"))


def _string(record: Any, name: str) -> str:
    """A field that is text: the body of some records is a list of sections, or the bytes of a page."""
    value = getattr(record, name, None)
    return value if isinstance(value, str) else ""


def _query_text(record: Any) -> str:
    text = getattr(record, "text", None)
    return text if isinstance(text, str) else record.default_text()


def _without_absent(collection: Collection, measured: bool) -> Collection:
    """Some public judgements name documents that their corpus lacks; nobody here can repair those."""
    queries, documents = absent_ids(collection)
    if measured:
        documents = set()
    if not queries and not documents:
        return collection
    if documents:
        _log.warning(
            "%s: %d judged documents are absent: %s", collection.name, len(documents), name_a_few(documents)
        )
    if queries:
        _log.warning(
            "%s: %d judged queries are absent: %s", collection.name, len(queries), name_a_few(queries)
        )
    kept = {
        query: {document: grade for document, grade in grades.items() if document not in documents}
        for query, grades in collection.qrels.items()
        if query not in queries
    }
    return dataclasses.replace(collection, qrels={query: grades for query, grades in kept.items() if grades})


def _open(identifier: str, named: str) -> Any:
    dataset = find_dataset(identifier, f"{named}: unknown id", "see https://ir-datasets.com")
    _check_parts(dataset, identifier, named)
    return dataset


def check_ir_dataset(identifier: str, field: str = TRAINED_ON.source) -> None:
    """Refuses an id that is unknown or lacks a part; downloads nothing.

    Raises:
        ValueError: such an id; the nearest ones are named.
    """
    _open(identifier, _named(identifier, field))


def _named(identifier: str, field: str) -> str:
    return f"{field}='{CATALOGUE_PREFIX}{identifier}'"


def _failures(error: Exception) -> list[BaseException]:
    """An exception, and where several mirrors failed those of each: ir_datasets' last argument then."""
    of_mirrors = error.args[-1] if error.args and isinstance(error.args[-1], list) else []
    return [error, *(failure for _, failure in of_mirrors)]


@contextmanager
def _saying_what_cannot_be_read(named: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise refusal_of(*_failures(error))(
            f"{named}: ir_datasets cannot read it ({error}); check the network, or give a local BEIR folder"
        ) from error


def _judgements(dataset: Any) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for judgement in dataset.qrels_iter():
        grades, grade = qrels.setdefault(judgement.query_id, {}), int(judgement.relevance)
        # Some judge passages or subtopics: a document is as relevant as its best one.
        grades[judgement.doc_id] = max(grade, grades.get(judgement.doc_id, grade))
    return qrels


def read_ir_judgements(identifier: str, field: str = TRAINED_ON.source) -> dict[str, dict[str, int]]:
    """Query id → document id → grade with this id, without a look at any text.

    Raises:
        ValueError: as `read_ir_dataset`.
    """
    named = _named(identifier, field)
    dataset = _open(identifier, named)
    with _saying_what_cannot_be_read(named):
        return _judgements(dataset)


def read_ir_queries(identifier: str, field: str = TRAINED_ON.source) -> dict[str, str]:
    """Query id → text of the judged queries with this id, without a look at its documents.

    Raises:
        ValueError: as `read_ir_dataset`.
    """
    named = _named(identifier, field)
    dataset = _open(identifier, named)
    with _saying_what_cannot_be_read(named):
        judged = _judgements(dataset)
        texts = ((record.query_id, _query_text(record)) for record in dataset.queries_iter())
        return {query: text for query, text in texts if query in judged}


def read_ir_dataset(
    identifier: str,
    field: str = TRAINED_ON.source,
    *,
    measured: bool = False,
    choose: Choice | None = None,
) -> Collection:
    """The collection with this id, e.g. `beir/nfcorpus/train`; the id names its own split.

    Judgements of documents or queries that the collection lacks are left out with a warning.

    Args:
        field: that named it.
        measured: those of documents stay; see `check_collection`.
        choose: the documents to keep; None: all.

    Raises:
        ValueError: an unknown id (the nearest ones are named), an id without documents, queries or
            judgements, or data that cannot be read or downloaded; an `UnfetchedError` where the network
            fails.
    """
    named = _named(identifier, field)
    dataset = _open(identifier, named)
    with _saying_what_cannot_be_read(named):
        qrels = _judgements(dataset)
        queries = {record.query_id: _query_text(record) for record in dataset.queries_iter()}
        collection = Collection(f"{CATALOGUE_PREFIX}{identifier}", {}, queries, qrels)
        documents = map(_to_document, dataset.docs_iter())
        if choose is None:
            collection = dataclasses.replace(collection, documents={each.id: each for each in documents})
        else:
            collection = _without_absent(collection, measured=True)  # of its documents none is there yet
            collection = with_found(collection, find_named(documents, collection, choose))
    return check_collection(_without_absent(collection, measured), "choose another id", measured=measured)
