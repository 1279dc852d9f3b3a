"""The first stage: what a reranker gets to see of a collection, in which order."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prorank_jax.bm25 import Bm25Index
from prorank_jax.long_work import tracked
from prorank_jax.self_retrieval import is_the_query
from prorank_jax.trec import Scores, check_writable_ids, read_scores, scores_of

if TYPE_CHECKING:  # importing a collection imports jax, which this package does without
    from prorank_jax.collection import Collection

BM25 = "bm25"
# Recall@100 needs this many, however few of them are reranked.
LEAST_DEPTH = 100


@dataclass(frozen=True)
class FirstStage:
    """The rankings that a reranker starts from.

    Attributes:
        name: `bm25`, or the run file.
        rankings: query id → document ids, best first, maybe none; the queries that count, in order.
        own_documents: rankings that had named the query itself, which was dropped.
        scores: query id → document id → score, never rising along a ranking; only a fusion reads them.
        is_cut: whether a ranking could go on behind its last document.
    """

    name: str
    rankings: Mapping[str, Sequence[str]]
    own_documents: int = 0
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    is_cut: bool = False

    @property
    def deepest(self) -> int:
        """Documents of the longest ranking, one more where it could go on."""
        return max(map(len, self.rankings.values()), default=0) + self.is_cut

    @property
    def empty(self) -> int:
        """Queries without a single document; they score 0 and count."""
        return sum(not documents for documents in self.rankings.values())

    def candidates(self, top_k: int) -> dict[str, list[str]]:
        """What is reranked: the best `top_k` documents of each query that has any."""
        return {
            query: list(documents[:top_k]) for query, documents in self.rankings.items() if len(documents)
        }

    def fingerprint(self) -> str:
        """A hash of all rankings, in hexadecimal; their scores decide nothing of the reranker's."""
        content = json.dumps([[query, list(documents)] for query, documents in self.rankings.items()])
        return hashlib.sha256(content.encode()).hexdigest()


def counted_queries(collection: Collection) -> list[str]:
    """The ids of the queries with at least one relevant document; no other can be measured.

    Raises:
        ValueError: there is none.
    """
    counted = [
        query for query, grades in collection.qrels.items() if any(grade > 0 for grade in grades.values())
    ]
    if not counted:
        raise ValueError(
            f"{collection.name}: none of its {len(collection.qrels)} judged queries has a relevant document "
            "(grade 1 or higher); choose another split"
        )
    return counted


def sample_queries(queries: Sequence[str], count: int | None) -> list[str]:
    """A random sample (seed 0) of the queries in their own order; all of them when count is None."""
    if count is None or count >= len(queries):
        return list(queries)
    chosen = sorted(random.Random(0).sample(range(len(queries)), count))
    return [queries[position] for position in chosen]


def _is_the_query(collection: Collection, query: str, document: str) -> bool:
    """Whether a document is the very text that is asked with, and nobody judged it relevant."""
    if query != document or collection.qrels.get(query, {}).get(document, 0) > 0:
        return False
    itself = collection.documents[document]
    return is_the_query(query, collection.queries[query], itself.title, itself.text)


def drop_queries_themselves(
    collection: Collection, rankings: Mapping[str, Iterable[str]]
) -> dict[str, list[str]]:
    """The rankings without documents that are the very query: query id → document ids, in their order."""
    return {
        query: [document for document in documents if not _is_the_query(collection, query, document)]
        for query, documents in rankings.items()
    }


def _without_itself(
    name: str, collection: Collection, scores: Mapping[str, Mapping[str, float]], depth: int | None
) -> FirstStage:
    kept = drop_queries_themselves(collection, scores)
    dropped = sum(len(kept[query]) < len(documents) for query, documents in scores.items())
    cut = {query: documents[:depth] for query, documents in kept.items()}
    check_writable_ids(cut)
    is_cut = depth is not None and any(len(documents) > depth for documents in scores.values())
    return FirstStage(name, cut, dropped, scores, is_cut)


def bm25_first_stage(collection: Collection, queries: Sequence[str], depth: int = LEAST_DEPTH) -> FirstStage:
    """The best `depth` documents of each query by BM25, over title and text (k1 0.9, b 0.4).

    Documents that share no word with the query are not ranked; equal scores stand in the corpus's order.

    Raises:
        ValueError: no document holds a word, or an id holds white space.
    """
    ids = list(collection.documents)
    index = Bm25Index([document.full_text for document in collection.documents.values()])
    scores = {}
    found = index.top_of_each((collection.queries[query] for query in queries), depth + 1)
    for query, best in zip(queries, tracked(found, "BM25", len(queries)), strict=True):
        scores[query] = {ids[position]: score for position, score in best}
    return _without_itself(BM25, collection, scores, depth)


def check_ranks_some(
    file: Path, run: Mapping[str, object], collection: Collection, queries: Sequence[str]
) -> None:
    """Refuses a run of other queries: each of these would score 0.

    Raises:
        ValueError: it has none of them.
    """
    if run.keys().isdisjoint(queries):
        raise ValueError(
            f"{file}: ranks none of the {len(queries)} judged queries of {collection.name}; "
            "give a run of this split"
        )


def run_first_stage(
    file: Path, collection: Collection, queries: Sequence[str], run: Scores | None = None
) -> FirstStage:
    """The rankings of a TREC run file, as deep as they are; queries it lacks get none.

    Args:
        run: what the file holds; None: it is read here.

    Raises:
        ValueError: not a run of this collection, or one without any of the queries.
    """
    known = scores_of(file, read_scores(file) if run is None else run, collection)
    check_ranks_some(file, known, collection, queries)
    scores = {query: known.get(query, {}) for query in queries}
    return _without_itself(str(file), collection, scores, None)


def make_first_stage(
    name: str, collection: Collection, queries: Sequence[str], top_k: int, run: Scores | None = None
) -> FirstStage:
    """BM25, or the run file of this name; deep enough for `top_k` and for Recall@100.

    Args:
        run: see `run_first_stage`.

    Raises:
        ValueError: see `bm25_first_stage` and `run_first_stage`.
    """
    if name == BM25:
        return bm25_first_stage(collection, queries, max(top_k, LEAST_DEPTH))
    return run_first_stage(Path(name).expanduser(), collection, queries, run)
