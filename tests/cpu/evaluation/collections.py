"""Collections, rankings and scorers for the tests of evaluation; no model."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np

from prorank_jax.collection import Collection
from prorank_jax.types import Document


def small_collection(queries: int = 8, documents: int = 30, seed: int = 0) -> Collection:
    """Documents of a few common words; each query has a relevant document, some have more."""
    rng = random.Random(seed)
    words = [f"word{number}" for number in range(12)]
    corpus = {
        f"d{n}": Document(f"d{n}", " ".join(rng.choices(words, k=6)), f"title {n}") for n in range(documents)
    }
    texts = {f"q{n}": f"{' '.join(rng.sample(words, 2))} number{n}" for n in range(queries)}
    qrels = {
        query: {document: rng.choice([-1, 0, 1, 2, 3]) for document in rng.sample(list(corpus), 6)}
        | {rng.choice(list(corpus)): 2}
        for query in texts
    }
    return Collection("small/test", corpus, texts, qrels)


def hash_score(pair: tuple[str, str]) -> float:
    """A score that depends on the pair alone, with many ties."""
    return hashlib.sha256("\n".join(pair).encode()).digest()[0] % 7 - 3.0


def chunk_by_chunk(score_fn: Callable[..., np.ndarray]) -> Callable[..., Generator[np.ndarray]]:
    """Any function that scores pairs, called with each chunk when its scores are asked for."""

    def score_chunks(
        chunks: Iterable[Sequence[tuple[str, str]]], on_scored: Callable[[int], None] | None = None
    ) -> Generator[np.ndarray]:
        for pairs in chunks:
            reported = 0

            def count(scored: int) -> None:
                nonlocal reported
                reported += scored
                if on_scored is not None:
                    on_scored(scored)

            scores = score_fn(pairs, count)
            if reported < len(pairs):
                count(len(pairs) - reported)
            yield scores

    return score_chunks


class CountingScorer:
    """A function that scores pairs and remembers its calls; stops like Ctrl-C at call number `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[list[tuple[str, str]]] = []
        self._stop_at = stop_at

    def __call__(
        self, pairs: Sequence[tuple[str, str]], on_scored: Callable[[int], None] | None = None
    ) -> np.ndarray:
        if len(self.calls) == self._stop_at:
            raise KeyboardInterrupt
        self.calls.append(list(pairs))
        if on_scored is not None:
            on_scored(len(pairs))
        return np.array([hash_score(pair) for pair in pairs], np.float32)
