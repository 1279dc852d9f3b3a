"""Goes through a collection's documents once and keeps those that are named: most of millions are not."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from prorank_jax.collection import Choice, Collection
from prorank_jax.types import Document


class Found(NamedTuple):
    """What is kept of a collection's documents.

    Attributes:
        documents: id → document, of those whose texts are needed; of several with one id the last.
        unread: ids of the others that are named.
        size: how many different ids there are, as Python's hashes tell them apart.
        repeated: hashes that came again, be it of the same id or, hardly ever, of another.
    """

    documents: dict[str, Document]
    unread: frozenset[str]
    size: int
    repeated: frozenset[int]


def find_named(documents: Iterable[Document], judged: Collection, choose: Choice) -> Found:
    """Keeps the documents that are named of all that pass by.

    Args:
        judged: the collection's queries and judgements; what those name is named, too.
        choose: says what else is.
    """
    texts, ids = choose(judged)
    judged_ids = set().union(*judged.qrels.values())
    kept: dict[str, Document] = {}
    unread: set[str] = set()
    hashes = array("q")  # eight bytes each, where a set of millions of ids would take a GiB
    for document in documents:
        hashes.append(hash(document.id))
        if document.id in texts:
            kept[document.id] = document
        elif document.id in ids or document.id in judged_ids:
            unread.add(document.id)
    different, counts = np.unique(np.asarray(hashes, np.int64), return_counts=True)
    return Found(kept, frozenset(unread), len(different), frozenset(different[counts > 1].tolist()))


def with_found(judged: Collection, found: Found) -> Collection:
    """The collection with what was kept of its documents."""
    return Collection(judged.name, found.documents, judged.queries, judged.qrels, found.unread, found.size)
