"""BM25 over documents in memory: the lexical first stage and the source of hard negatives."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import Stemmer

from prorank_jax.look_ahead import results_ahead
from prorank_jax.machine import usable_cores

K1, B = 0.9, 0.4
# From so many documents on, a query takes long enough to be worth a thread.
_MANY_DOCUMENTS = 50_000
# Each holds the scores of all documents, and copies of those that match: some 100 MB for 8.8 million. Sums of
# scores run one after the other, so that more threads would wait for each other.
_MOST_THREADS = 8


def _import_bm25s() -> Any:
    # bm25s calls jax.lax.top_k while it is imported, which starts the accelerator: too early for
    # jax.distributed, and for nothing, since numpy selects here. It takes a failed import for an answer.
    if "bm25s" in sys.modules:
        return sys.modules["bm25s"]
    hidden = sys.modules.get("jax.lax")
    sys.modules["jax.lax"] = None  # type: ignore[assignment]
    try:
        import bm25s
    finally:
        del sys.modules["jax.lax"]
        if hidden is not None:
            sys.modules["jax.lax"] = hidden
    bm25s.logger.setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s


class Bm25Index:
    """An index of documents: English stop words, Porter-style stemmer, k1 0.9, b 0.4."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Indexes the texts; a document is later named by its position.

        Raises:
            ValueError: no text holds a single word.
        """
        self._bm25s = _import_bm25s()
        self._stemmer = Stemmer.Stemmer("english")
        tokens = self._tokenize(texts)
        if not any(tokens):
            raise ValueError(
                f"BM25: none of the {len(texts)} documents holds a word to index; check their text"
            )
        self._retriever = self._bm25s.BM25(k1=K1, b=B)
        self._retriever.index(tokens, show_progress=False)
        self._size = len(texts)

    def _tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        return self._bm25s.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )

    def scores(self, query: str) -> np.ndarray:
        """float32 [documents]: the score of every document, 0 where no word is shared."""
        return self._scores_of(self._known_tokens(query))

    def _known_tokens(self, query: str) -> Any:
        """Ids of the query's words that some document holds."""
        return self._retriever.get_tokens_ids(self._tokenize([query])[0])

    def _scores_of(self, tokens: Any) -> np.ndarray:
        if not len(tokens):
            return np.zeros(self._size, np.float32)
        return np.asarray(self._retriever.get_scores_from_ids(tokens), np.float32)

    def top(self, query: str, count: int) -> list[tuple[int, float]]:
        """The best `count` documents that share a word with the query, as (position, score).

        Best first; equal scores in the documents' order.
        """
        return _best(self.scores(query), count)

    def top_of_each(self, queries: Iterable[str], count: int) -> Iterator[list[tuple[int, float]]]:
        """What `top` gives for each query, in their order.

        Over many documents several threads work on queries, of which a few are taken ahead: but for the sum
        of scores itself, numpy lets others run while it goes through large arrays.
        """
        threads = min(usable_cores(), _MOST_THREADS) if self._size >= _MANY_DOCUMENTS else 1
        if threads == 1:
            yield from (self.top(query, count) for query in queries)
            return

        def top_of(tokens: Any) -> list[tuple[int, float]]:
            return _best(self._scores_of(tokens), count)

        with ThreadPoolExecutor(threads, thread_name_prefix="bm25") as pool:
            # Words are stemmed here: a stemmer is for one thread.
            submitted = (pool.submit(top_of, self._known_tokens(query)) for query in queries)
            yield from results_ahead(submitted, 2 * threads)


def _best(scores: np.ndarray, count: int) -> list[tuple[int, float]]:
    # Few of millions of documents share a word with the query: only those are ordered.
    positions = np.flatnonzero(scores > 0)
    if count < len(positions):
        found = scores[positions]
        positions = positions[found >= np.partition(found, -count)[-count]]
    ordered = positions[np.argsort(-scores[positions], kind="stable")][:count]
    return [(int(position), float(scores[position])) for position in ordered]
