"""A sample of queries is of the size asked for, in order, and the same for a seed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.collection import Collection
from prorank_jax.query_choice import QueryChoice, choose_queries
from prorank_jax.types import Document


@given(
    grades=st.lists(st.integers(0, 3), min_size=1, max_size=30), most=st.integers(1, 40), seed=st.integers()
)
def test_a_sample_of_queries(grades: list[int], most: int, seed: int) -> None:
    qrels = {f"q{number}": {"d": grade} for number, grade in enumerate(grades)}
    collection = Collection("made up", {"d": Document("d", "text")}, {q: f"text {q}" for q in qrels}, qrels)
    chosen = choose_queries(collection, QueryChoice(most=most), 2, seed).qrels
    assert list(chosen) == [query for query in qrels if query in chosen]
    answered = [query for query in chosen if qrels[query]["d"] >= 2]
    assert len(answered) == min(most, sum(grade >= 2 for grade in grades))
    assert {query for query in qrels if qrels[query]["d"] < 2} <= set(chosen)
    assert chosen == choose_queries(collection, QueryChoice(most=most), 2, seed).qrels
    assert choose_queries(collection, QueryChoice(), 2, seed).qrels == qrels


def test_what_names_examples_is_unchanged_where_all_queries_are_used() -> None:
    assert QueryChoice().deciding_content() == {}
    texts = frozenset({"a", "b"})
    contents = [QueryChoice(texts), QueryChoice(frozenset({"a"})), QueryChoice(most=3), QueryChoice(texts, 3)]
    assert len({str(choice.deciding_content()) for choice in contents}) == 4
