"""The best documents are chosen among those that share a word, as a sort of all would choose them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.bm25 import Bm25Index


class _Scored(Bm25Index):
    """An index whose scores are given."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores

    def scores(self, query: str) -> np.ndarray:
        del query
        return self._scores


def _top_of_all(scores: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The choice by a threshold over all documents, as it was made before."""
    if count < len(scores):
        threshold = np.partition(scores, -count)[-count]
        positions = np.flatnonzero((scores >= threshold) & (scores > 0))
    else:
        positions = np.flatnonzero(scores > 0)
    ordered = positions[np.argsort(-scores[positions], kind="stable")][:count]
    return [(int(position), float(scores[position])) for position in ordered]


@given(
    values=st.lists(
        st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.5, 0.5000001, 3.0, 7.5]), min_size=1, max_size=60
    ),
    count=st.integers(1, 70),
)
def test_the_best_are_those_of_a_choice_among_all_ties_included(values: list[float], count: int) -> None:
    scores = np.array(values, np.float32)
    assert _Scored(scores).top("any", count) == _top_of_all(scores, count)


@pytest.mark.parametrize("count", [1, 3, 200, 900])
def test_the_best_of_an_index_are_those_of_a_choice_among_all(count: int) -> None:
    words, source = ["tea", "boat", "horse", "piano", "river", "stone"], np.random.default_rng(0)
    index = Bm25Index([" ".join(source.choice(words, source.integers(1, 5))) for _ in range(800)])
    for query in (*words, "tea boat", "river stone piano", "nothing"):
        assert index.top(query, count) == _top_of_all(index.scores(query), count)


@pytest.mark.parametrize("cores", [1, 4])
def test_many_queries_at_once_are_the_same_in_their_order(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr("prorank_jax.bm25._MANY_DOCUMENTS", 100)
    monkeypatch.setattr("prorank_jax.bm25.usable_cores", lambda: cores)
    words, source = [f"word{number}" for number in range(40)], np.random.default_rng(1)
    index = Bm25Index([" ".join(source.choice(words, 12)) for _ in range(500)])
    queries = [" ".join(source.choice(words, 3)) for _ in range(60)] + ["nothing known"]
    found = index.top_of_each(iter(queries), 7)
    assert [next(found) for _ in range(3)] + list(found) == [index.top(query, 7) for query in queries]
    first = next(index.top_of_each((query for query in queries), 7))  # whoever stops early waits for little
    assert first == index.top(queries[0], 7)


@pytest.mark.parametrize(
    ("query", "words"), [("the tea of a boat", ["tea", "boat"]), ("Rivers", ["river"]), ("the of a", [])]
)
def test_scores_are_lucenes_bm25_with_k1_of_0_9_and_b_of_0_4(query: str, words: list[str]) -> None:
    """Written out over stems: stop words are neither found nor counted in a document's length."""
    texts = ["Tea and tea for the boats", "tea", "a horse, the piano by a stone river", "boats on the river"]
    stems = [["tea", "tea", "boat"], ["tea"], ["hors", "piano", "stone", "river"], ["boat", "river"]]
    mean = np.mean([len(stem) for stem in stems])
    expected = np.zeros(4)
    for word in words:
        holding = sum(word in document for document in stems)
        weight = math.log(1 + (4 - holding + 0.5) / (holding + 0.5))
        for place, document in enumerate(stems):
            count = document.count(word)
            expected[place] += weight * count / (count + 0.9 * (1 - 0.4 + 0.4 * len(document) / mean))
    np.testing.assert_allclose(Bm25Index(texts).scores(query), expected, rtol=1e-5)
