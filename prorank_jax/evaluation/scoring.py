"""Reranks the candidates of a first stage with any function that scores query-document pairs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from prorank_jax.evaluation.score_log import QueryScores, ScoreLog
from prorank_jax.input_checks import Pair

if TYPE_CHECKING:  # importing a collection imports jax, which this package does without
    from prorank_jax.collection import Collection

CHUNK_PAIRS = 256


class ScoreChunks(Protocol):
    """Scores chunks of (query, document) pairs: of each, in turn, float32 [n], higher is more relevant.

    Calls `on_scored(n)` after each n pairs, if it is given. It may take chunks before it gives the scores of
    those before, so that an accelerator has work while the host prepares more.
    """

    def __call__(
        self, chunks: Iterable[Sequence[Pair]], on_scored: Callable[[int], None] | None = None
    ) -> Generator[np.ndarray]: ...


def whole_query_chunks(candidates: Mapping[str, Sequence[str]], chunk_pairs: int) -> Iterator[list[str]]:
    """Groups queries so that each group has at most `chunk_pairs` candidates, or is one query."""
    chunk: list[str] = []
    pairs = 0
    for query, documents in candidates.items():
        if chunk and pairs + len(documents) > chunk_pairs:
            yield chunk
            chunk, pairs = [], 0
        chunk.append(query)
        pairs += len(documents)
    if chunk:
        yield chunk


def _owners(candidates: Mapping[str, Sequence[str]], chunk: Sequence[str]) -> list[tuple[str, str]]:
    return [(query, document) for query in chunk for document in candidates[query]]


def _texts(collection: Collection, owners: Sequence[tuple[str, str]]) -> list[Pair]:
    return [
        (collection.queries[query], collection.documents[document].full_text) for query, document in owners
    ]


def _check_scores(scores: np.ndarray, owners: Sequence[tuple[str, str]]) -> None:
    if scores.shape != (len(owners),):
        raise ValueError(
            f"the model gave scores of shape {scores.shape} for {len(owners)} pairs; expected one each"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query, document = owners[bad[0]]
        raise ValueError(
            f"the model scored query {query!r} and document {document!r} with {scores[bad[0]]}, and "
            f"{len(bad) - 1} more of {len(owners)} pairs so; check its weights or its compute_dtype"
        )


def _by_query(
    chunk: Mapping[str, Sequence[str]], scores: np.ndarray, seconds: float
) -> dict[str, QueryScores]:
    parts = np.split(
        scores.astype(np.float32), np.cumsum([len(documents) for documents in chunk.values()])[:-1]
    )
    return {
        query: QueryScores(tuple(documents), tuple(map(float, part)), seconds * len(part) / len(scores))
        for (query, documents), part in zip(chunk.items(), parts, strict=True)
    }


def _is_done(log: ScoreLog, query: str, documents: Sequence[str]) -> bool:
    return query in log.done and log.done[query].documents == tuple(documents)


def score_candidates(
    score_chunks: ScoreChunks,
    collection: Collection,
    candidates: Mapping[str, Sequence[str]],
    *,
    log: ScoreLog | None = None,
    chunk_pairs: int = CHUNK_PAIRS,
    on_scored: Callable[[int], None] | None = None,
    on_resumed: Callable[[int], None] | None = None,
) -> dict[str, QueryScores]:
    """The scores of all candidates, in the order of the queries.

    Args:
        score_chunks: is given whole queries, about `chunk_pairs` pairs at a time. The chunks do not depend
            on what is done already: a resumed evaluation scores those of one that never stopped.
        collection: has the texts.
        candidates: query id → document ids.
        log: keeps every finished chunk, and has those of an earlier call.
        chunk_pairs: see above.
        on_scored: is told how many pairs were scored since it was told last.
        on_resumed: is told once, first, how many pairs an earlier call had scored.

    Raises:
        ValueError: a score is missing, NaN or infinite.
    """
    chunks = list(whole_query_chunks(candidates, chunk_pairs))
    finished: dict[str, QueryScores] = {}
    if log is not None:
        whole = [chunk for chunk in chunks if all(_is_done(log, query, candidates[query]) for query in chunk)]
        finished = {query: log.done[query] for chunk in whole for query in chunk}
        log.begin(finished)
        if on_resumed is not None:
            on_resumed(sum(len(scores.documents) for scores in finished.values()))
    left = [chunk for chunk in chunks if chunk[0] not in finished]
    start = time.perf_counter()
    texts = (_texts(collection, _owners(candidates, chunk)) for chunk in left)
    with contextlib.closing(score_chunks(texts, on_scored)) as scores_of:  # nothing goes on after an error
        for chunk, given in zip(left, scores_of, strict=True):
            scores = np.asarray(given)
            _check_scores(scores, _owners(candidates, chunk))
            now = time.perf_counter()
            scored = _by_query({query: candidates[query] for query in chunk}, scores, now - start)
            start = now
            if log is not None:
                log.add(scored)
                scored = {query: log.done[query] for query in scored}
            finished |= scored
    return {query: finished[query] for query in candidates}


def rerank(ranking: Sequence[str], scored: QueryScores | None) -> list[str]:
    """The scored documents by score, then the rest as it was; equal scores keep the first stage's order."""
    if scored is None:
        return list(ranking)
    order = np.argsort(-np.asarray(scored.scores, np.float64), kind="stable")
    best = [scored.documents[position] for position in order]
    return best + list(ranking[len(best) :])
