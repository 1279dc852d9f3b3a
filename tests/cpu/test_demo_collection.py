"""The built-in collection keeps its promises: size, grades, splits, and how good BM25 is on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest

from prorank_jax.bm25 import Bm25Index
from prorank_jax.collection import Collection
from prorank_jax.demo_collection import DOMAINS, SPLITS, demo_collection
from prorank_jax.demo_facts import Domain, parse_entities, parse_values

QUERIES = {"train": 444, "dev": 80, "test": 120}
# nDCG@10 of BM25, linear gains: measured once.
BM25_NDCG = {"train": 0.549, "dev": 0.558, "test": 0.521}


@pytest.fixture(scope="module")
def splits() -> dict[str, Collection]:
    return {split: demo_collection(split) for split in SPLITS}


def _ndcg(grades: dict[str, int], ranking: Sequence[str], depth: int = 10) -> float:
    def gain(values: Sequence[int]) -> float:
        return sum(value / math.log2(rank + 2) for rank, value in enumerate(values[:depth]))

    return gain([grades.get(identifier, 0) for identifier in ranking]) / gain(sorted(grades.values())[::-1])


def test_sizes_and_grades(splits: dict[str, Collection]) -> None:
    assert {split: len(collection.qrels) for split, collection in splits.items()} == QUERIES
    for collection in splits.values():
        assert len(collection.documents) >= 2000
        counts = Counter(grade for grades in collection.qrels.values() for grade in grades.values())
        assert set(counts) == {0, 1, 2, 3}
        assert all(max(grades.values()) == 3 for grades in collection.qrels.values())


def test_splits_share_no_query(splits: dict[str, Collection]) -> None:
    texts = [collection.queries[query] for collection in splits.values() for query in collection.qrels]
    assert len(set(texts)) == len(texts) == len(splits["train"].queries)


def test_texts_are_short_and_never_twice(splits: dict[str, Collection]) -> None:
    texts = [document.text for document in splits["train"].documents.values()]
    assert len(set(texts)) == len(texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 10
    assert max(lengths) <= 40
    assert max(len(query.split()) for query in splits["train"].queries.values()) <= 20
    assert not any("{" in text for text in (*texts, *splits["train"].queries.values()))


@pytest.mark.parametrize("split", SPLITS)
def test_bm25_is_good_and_beatable(splits: dict[str, Collection], split: str) -> None:
    collection = splits[split]
    ids = list(collection.documents)
    index = Bm25Index([document.full_text for document in collection.documents.values()])
    values = []
    for query, grades in collection.qrels.items():
        ranking = [ids[position] for position, _ in index.top(collection.queries[query], 10)]
        values.append(_ndcg(grades, ranking))
    mean = sum(values) / len(values)
    assert 0.5 < mean < 0.8
    assert mean == pytest.approx(BM25_NDCG[split], abs=0.002)


def test_the_collection_is_always_the_same_and_belongs_to_its_caller() -> None:
    first = demo_collection("dev")
    query = next(iter(first.qrels))
    first.documents.clear()
    first.qrels[query].clear()
    second = demo_collection("dev")
    assert second.documents
    assert second.qrels[query]


def test_grades_mean_what_they_say(splits: dict[str, Collection]) -> None:
    """On one question of each kind, read by a person."""
    texts: dict[str, dict[str, int]] = {}
    for collection in splits.values():
        for query, grades in collection.qrels.items():
            texts[collection.queries[query]] = {
                collection.documents[identifier].text: grade for identifier, grade in grades.items()
            }
    about_entity = next(
        graded
        for question, graded in texts.items()
        if "of the otter" in question or "does the otter" in question
    )
    assert all("otter" in text.lower() for text in about_entity)
    assert Counter(about_entity.values())[3] == 2
    assert Counter(about_entity.values())[2] == 1
    assert all("the otter" not in text for text, grade in about_entity.items() if grade == 0)


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"data.split='all': the demo has train, dev, test"):
        demo_collection("all")


def test_facts_name_their_entities_once() -> None:
    entities = [entity for domain in DOMAINS for entity in domain.entities]
    assert len(set(entities)) == len(entities)


def test_flawed_tables_are_refused() -> None:
    attribute = DOMAINS[0].attributes[0]
    with pytest.raises(ValueError, match=r"'the cat' has 2 values; give 1"):
        Domain("animal", (attribute,), parse_entities("the cat: meat trees"))
    with pytest.raises(ValueError, match=r"diet='tea' of 'the cat' needs 4 wordings"):
        Domain("animal", (attribute,), parse_entities("the cat: tea"))
    assert parse_values("a: x | y") == {"a": ("x", "y")}
