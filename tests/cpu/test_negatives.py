"""Negatives are irrelevant, as many as asked for, and the same whatever the order of the queries."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax import negatives as negatives_module
from prorank_jax.bm25 import Bm25Index
from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.negative_choice import choose_negatives, count_hard
from prorank_jax.negatives import make_groups
from prorank_jax.types import Document

TOPICS = ("tea cup kettle", "boat sail harbour", "horse saddle stable", "piano organ choir")


def _collection() -> Collection:
    documents = {f"d{i}": Document(f"d{i}", f"{TOPICS[i % 4]} number {i}") for i in range(80)}
    queries = {f"q{i}": f"{TOPICS[i % 4]} question" for i in range(12)}
    qrels = {f"q{i}": {f"d{i}": 2, f"d{i + 4}": 1, f"d{i + 8}": 0} for i in range(12)}
    return Collection("made up", documents, queries, qrels)


def _negative_ids(
    options: DataOptions, collection: Collection | None = None, seed: int = 0
) -> dict[str, list[str]]:
    groups = make_groups(collection or _collection(), options, seed)
    return {
        group.query_id: [c.document.id for c in group.candidates if c.grade < options.relevant_grade]
        for group in groups
    }


def test_groups_hold_all_judged_documents_and_the_mined_ones() -> None:
    (group, *_) = make_groups(_collection(), DataOptions(relevant_grade=1))
    graded = {candidate.document.id: candidate.grade for candidate in group.candidates}
    assert len(graded) == len(group.candidates) == 2 + 4
    assert list(graded.items())[:3] == [("d0", 2), ("d4", 1), ("d8", 0)]
    assert sum(grade == 0 for grade in graded.values()) == 4


def test_judged_negatives_that_were_not_drawn_come_last() -> None:
    (group, *_) = make_groups(_collection(), DataOptions(relevant_grade=2, negatives_per_query=1))
    assert len(group.candidates) == 3
    assert {candidate.document.id for candidate in group.candidates[1:]} == {"d4", "d8"}


def test_hard_negatives_share_the_topic_and_random_ones_need_not() -> None:
    hard = _negative_ids(DataOptions(negatives_per_query=5, hard_negatives=1.0, negative_depth=15))
    same = [int(d[1:]) % 4 == int(q[1:]) % 4 for q, ids in hard.items() for d in ids]
    assert all(same)
    easy = _negative_ids(DataOptions(negatives_per_query=5, hard_negatives=0.0))
    same = [int(d[1:]) % 4 == int(q[1:]) % 4 for q, ids in easy.items() for d in ids]
    assert 0 < sum(same) < len(same) / 2


@pytest.mark.parametrize("hard_negatives", [0.0, 1.0])
def test_a_query_that_is_a_document_is_not_its_own_negative(hard_negatives) -> None:
    """As in ArguAna and Quora; where ids are merely numbers, another text under the same one may be."""
    texts = {str(i): f"{TOPICS[i % 4]} number {i}" for i in range(8)}
    documents = {name: Document(name, text) for name, text in texts.items()}
    queries = texts | {"3": "tea boat saddle"}
    collection = Collection("own", documents, queries, {q: {str((int(q) + 4) % 8): 1} for q in queries})
    options = DataOptions(negatives_per_query=7, hard_negatives=hard_negatives)
    mined = _negative_ids(options, collection)
    assert all(query not in ids for query, ids in mined.items() if query != "3")
    assert "3" in mined["3"]
    assert {query: len(ids) for query, ids in mined.items()} == dict.fromkeys(queries, 6) | {"3": 7}


@pytest.mark.parametrize("hard_negatives", [0.0, 1.0])
def test_a_copy_of_a_relevant_document_is_not_mined(hard_negatives) -> None:
    collection = _collection()
    copies = {f"{n}-copy": dataclasses.replace(d, id=f"{n}-copy") for n, d in collection.documents.items()}
    doubled = dataclasses.replace(collection, documents=collection.documents | copies)
    options = DataOptions(negatives_per_query=30, hard_negatives=hard_negatives)
    for query, ids in _negative_ids(options, doubled).items():
        relevant = {f"{name}-copy" for name, grade in collection.qrels[query].items() if grade >= 1}
        assert len(relevant) == 2
        assert relevant.isdisjoint(ids)
        assert len(ids) == 30 + (hard_negatives == 0)  # with the one that is judged irrelevant
    judged = {
        query: grades | {f"{query.replace('q', 'd')}-copy": 0} for query, grades in doubled.qrels.items()
    }
    for query, ids in _negative_ids(options, dataclasses.replace(doubled, qrels=judged)).items():
        assert f"{query.replace('q', 'd')}-copy" in ids  # whoever judged it knew better


def test_the_choice_depends_on_seed_and_query_only() -> None:
    options = DataOptions(negatives_per_query=6)
    collection = _collection()
    part = dataclasses.replace(collection, qrels=dict(reversed(list(collection.qrels.items())[3:7])))
    whole, partly = _negative_ids(options, collection), _negative_ids(options, part)
    assert partly == {query: whole[query] for query in partly}
    assert whole == _negative_ids(options, collection)
    assert whole != _negative_ids(options, collection, seed=1)


def test_a_relevant_document_without_a_word_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Its prompt would be that of any other such document, whatever the query."""
    collection = _collection()
    documents = collection.documents | {"d0": Document("d0", " ", "\n"), "d1": Document("d1", "")}
    qrels = collection.qrels | {"q1": {"d1": 2}, "q2": {"d2": 2, "d1": 0}}
    groups = make_groups(dataclasses.replace(collection, documents=documents, qrels=qrels), DataOptions())
    found = {group.query_id: {c.document.id: c.grade for c in group.candidates} for group in groups}
    assert "d0" not in found["q0"]
    assert found["q0"]["d4"] == 1
    assert "q1" not in found
    assert (found["q2"]["d2"], found["q2"]["d1"]) == (2, 0)
    assert "2 relevant documents without a word are left out: 'd0', 'd1'" in caplog.text


def test_queries_without_relevant_documents_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    collection = _collection()
    collection.qrels["q3"] = {"d1": 0}
    groups = make_groups(collection, DataOptions())
    assert "q3" not in {group.query_id for group in groups}
    assert "1 queries without a relevant document" in caplog.text
    with pytest.raises(
        ValueError, match=r"data.relevant_grade=4: none of the 12 queries.*highest grade there is 2"
    ):
        make_groups(collection, DataOptions(relevant_grade=4))


@given(
    judged=st.dictionaries(st.integers(0, 29), st.integers(-1, 3), max_size=30),
    ranking=st.lists(st.integers(0, 29), unique=True),
    wanted=st.integers(1, 12),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_negatives_are_distinct_irrelevant_and_as_many_as_there_can_be(
    judged: dict[int, int], ranking: list[int], wanted: int, share: float, seed: int
) -> None:
    grades = {f"d{number}": grade for number, grade in judged.items()}
    ids = [f"d{number}" for number in range(30)]
    options = DataOptions(negatives_per_query=wanted, hard_negatives=share)
    bm25 = [f"d{number}" for number in ranking]
    negatives = choose_negatives(grades, bm25, ids, options, random.Random(seed))
    possible = [identifier for identifier in ids if grades.get(identifier, 0) < options.relevant_grade]
    assert len(set(negatives)) == len(negatives) == min(wanted, len(possible))
    assert set(negatives) <= set(possible)


@pytest.mark.parametrize(("share", "hard"), [(0.0, 0), (0.25, 1), (0.3, 2), (0.5, 3), (1.0, 5)])
def test_the_hard_share_is_rounded_to_whole_documents(share: float, hard: int) -> None:
    """Of five; the random ones are never judged, so the judged ones are the hard ones."""
    judged = {"relevant": 1} | {f"judged{i}": 0 for i in range(9)}
    ids = [*judged, *(f"other{i}" for i in range(40))]
    options = DataOptions(negatives_per_query=5, hard_negatives=share)
    found = choose_negatives(judged, [], ids, options, random.Random(0))
    assert [identifier in judged for identifier in found] == [True] * hard + [False] * (5 - hard)


@pytest.mark.parametrize("hard_negatives", [0.0, 1.0])
def test_a_document_that_says_what_is_asked_is_no_negative(hard_negatives: float) -> None:
    """Where questions are documents, as in Quora, BM25 would rank the query itself first."""
    made = _collection()
    asked = {f"copy{i}": Document(f"copy{i}", f" {made.queries[f'q{i}'].upper()}\n") for i in range(12)}
    collection = dataclasses.replace(made, documents=asked | made.documents)
    options = DataOptions(negatives_per_query=40, hard_negatives=hard_negatives)
    for query, ids in _negative_ids(options, collection).items():
        said = {f"copy{i}" for i in range(12) if collection.queries[f"q{i}"] == collection.queries[query]}
        assert len(said) == 3
        assert not said & set(ids)
        assert len(ids) >= 40  # the judged ones that were not drawn come behind


@given(
    judged=st.dictionaries(st.integers(0, 59), st.integers(-1, 2), max_size=20),
    ranking=st.lists(st.integers(0, 59), unique=True),
    window=st.tuples(st.integers(1, 30), st.integers(1, 30)).map(sorted),
    wanted=st.integers(1, 8),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_hard_negatives_come_from_the_ranks_that_are_asked_for(judged, ranking, window, wanted, seed) -> None:
    first, last = window
    grades = {f"d{number}": grade for number, grade in judged.items()}
    ranked, ids = [f"d{number}" for number in ranking], [f"d{number}" for number in range(60)]
    options = DataOptions(
        negatives_per_query=wanted, hard_negatives=1.0, negatives_from=first, negative_depth=last
    )
    chosen = choose_negatives(grades, ranked, ids, options, random.Random(seed))
    inside = {identifier for identifier in ranked[first - 1 : last] if identifier not in grades}
    irrelevant = sum(grade < 1 for grade in grades.values())
    hard = min(max(wanted - irrelevant, 0), len(inside))
    assert len(inside & set(chosen)) >= hard
    unjudged = [identifier for identifier in chosen if identifier not in grades]
    assert set(unjudged[:hard]) <= inside


@given(
    judged=st.dictionaries(st.integers(0, 29), st.integers(-1, 2), max_size=12),
    ranking=st.lists(st.integers(0, 29), unique=True),
    first=st.integers(1, 6),
    wanted=st.integers(1, 9),
    share=st.floats(0, 1),
)
@settings(deadline=None)
def test_so_many_hard_negatives_are_found_as_are_counted(judged, ranking, first, wanted, share) -> None:
    grades = {f"d{number}": grade for number, grade in judged.items()}
    ranked, unranked = [f"d{number}" for number in ranking], [f"other{number}" for number in range(20)]
    options = DataOptions(
        negatives_per_query=wanted, hard_negatives=share, negatives_from=first, negative_depth=first + 9
    )
    chosen = choose_negatives(grades, ranked, unranked, options, random.Random(0))
    asked, found, is_cut = count_hard(grades, ranked, options)
    assert sum(identifier in ranked and identifier not in grades for identifier in chosen) == found <= asked
    assert is_cut == (len(ranking) >= options.negative_depth)
    irrelevant = sum(grade < 1 for grade in grades.values())
    assert asked == max(0, int(wanted * share + 0.5) - irrelevant)


def _reversed_ids(collection: Collection) -> dict[str, list[str]]:
    return dict.fromkeys(collection.qrels, sorted(collection.documents)[::-1])


def test_another_retrievers_ranking_takes_the_place_of_bm25s(monkeypatch: pytest.MonkeyPatch) -> None:
    collection = _collection()
    options = DataOptions(negatives_per_query=4, hard_negatives=1.0, negatives_from=3, negative_depth=9)
    monkeypatch.setattr(negatives_module, "index_documents", lambda _: pytest.fail("nobody needs BM25"))
    ranked = _reversed_ids(collection)
    drawn = set()
    for group in make_groups(collection, options, ranked=ranked):
        mined = [
            c.document.id for c in group.candidates if c.document.id not in collection.qrels[group.query_id]
        ]
        assert len(mined) == 3  # one more is judged irrelevant
        assert set(mined) <= set(ranked[group.query_id][2:9])
        drawn.update(mined)
    assert len(drawn) == 7


def test_what_is_no_negative_of_bm25_is_none_of_another_ranking() -> None:
    """Neither relevant documents, nor their copies, nor what says just the query, however high they rank."""
    made = _collection()
    copies = {f"{n}-copy": dataclasses.replace(d, id=f"{n}-copy") for n, d in made.documents.items()}
    asked = {f"asked{i}": Document(f"asked{i}", made.queries[f"q{i}"]) for i in range(12)}
    collection = dataclasses.replace(made, documents=made.documents | copies | asked)
    ranked = {}
    for query, grades in collection.qrels.items():
        relevant = [identifier for identifier, grade in grades.items() if grade >= 1]
        same = [f"asked{i}" for i in range(12) if made.queries[f"q{i}"] == made.queries[query]]
        ranked[query] = [*relevant, *(f"{name}-copy" for name in relevant), *same, "d70", "d71", "d72"]
    options = DataOptions(negatives_per_query=4, hard_negatives=1.0, negative_depth=10)
    for group in make_groups(collection, options, ranked=ranked):
        irrelevant = [c.document.id for c in group.candidates if c.grade < 1]
        assert set(irrelevant) == {f"d{int(group.query_id[1:]) + 8}", "d70", "d71", "d72"}


def test_hard_negatives_are_no_deeper_than_asked():
    collection = _collection()
    options = DataOptions(negatives_per_query=4, hard_negatives=1.0, negative_depth=6)
    ids = list(collection.documents)
    index = Bm25Index([document.full_text for document in collection.documents.values()])
    for query, found in _negative_ids(options, collection).items():
        best = {ids[place] for place, _ in index.top(collection.queries[query], 6)}
        judged = set(collection.qrels[query])
        mined = [document for document in found if document not in judged]
        assert set(mined[: len(best - judged)]) <= best
