"""Queries made from documents: never beside what they were taken from, and the same for a seed."""

from __future__ import annotations

import dataclasses
import json
import random
import re

import pytest

from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.corpora import load_groups
from prorank_jax.pseudo_queries import PSEUDO_PREFIX, make_pseudo_groups, make_query
from prorank_jax.types import Document

TOPICS = "tea cup kettle boat sail harbour horse saddle stable piano organ choir violin mountain river"
WORDS = re.findall(r"\w+", TOPICS)
OPTIONS = DataOptions(pseudo_queries=20, negatives_per_query=4, hard_negatives=0.5, negative_depth=10)


def _sentence(source: random.Random) -> str:
    return " ".join(source.choices(WORDS, k=8)).capitalize() + f" number {source.randrange(10**6)}."


def _collection(title: bool = True) -> Collection:
    source = random.Random(3)
    documents = {
        f"d{n}": Document(
            f"d{n}", " ".join(_sentence(source) for _ in range(3)), _sentence(source)[:-1] if title else ""
        )
        for n in range(60)
    }
    return Collection("made up", documents, {"q": "tea"}, {"q": {"d0": 1}})


def test_a_query_is_relevant_to_its_document_only() -> None:
    groups = make_pseudo_groups(_collection(), OPTIONS)
    assert len(groups) == 20
    assert len({group.query_id for group in groups}) == 20
    for group in groups:
        relevant, *others = group.candidates
        assert group.query_id == f"{PSEUDO_PREFIX}{relevant.document.id}"
        assert relevant.grade == 1
        assert [other.grade for other in others] == [0] * 4
        assert relevant.document.id not in {other.document.id for other in others}


def test_a_query_is_taken_out_of_its_document() -> None:
    collection = _collection()
    kinds = set()
    for group in make_pseudo_groups(collection, OPTIONS):
        relevant, *others = group.candidates
        whole = collection.documents[relevant.document.id]
        assert group.query in (whole.title, *(f"{part}." for part in whole.text[:-1].split(". ")))
        assert group.query not in relevant.document.full_text
        is_title = group.query == whole.title
        kinds.add(is_title)
        # A title that only the relevant document lacks would give it away.
        assert {bool(one.document.title) for one in (relevant, *others)} == {not is_title}
    assert kinds == {True, False}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_asked_is_not_said_again_in_the_document(seed: int) -> None:
    """No negative says it, so that to find it word for word would be enough."""
    title = "Wing flutter at high speed is damped."
    again = Document("1", f"{title.upper()} The tests were made in a tunnel of 1946.", title)
    made = make_query(again, random.Random(seed))
    assert made is not None
    assert made[0] == "The tests were made in a tunnel of 1946."
    assert make_query(Document("1", f"{title} {title}", title), random.Random(seed)) is None


def _changed(collection: Collection, change) -> Collection:
    documents = {document.id: change(document) for document in collection.documents.values()}
    return dataclasses.replace(collection, documents=documents)


def test_line_breaks_do_not_tell_the_relevant_document() -> None:
    broken = _changed(
        _collection(title=False),
        lambda document: dataclasses.replace(document, text=document.text.replace(". ", ".\n\n")),
    )
    groups = make_pseudo_groups(broken, OPTIONS)
    assert len(groups) == 20
    assert not any("\n" in one.document.text for group in groups for one in group.candidates)


def test_another_document_that_holds_the_query_is_not_called_irrelevant() -> None:
    """Every document is there twice, as versions of papers are."""
    collection = _collection()
    copies = {f"{n}-copy": dataclasses.replace(d, id=f"{n}-copy") for n, d in collection.documents.items()}
    doubled = dataclasses.replace(collection, documents=collection.documents | copies)
    hard = dataclasses.replace(OPTIONS, hard_negatives=1.0)
    groups = make_pseudo_groups(doubled, hard)
    assert len(groups) == 20
    for group in groups:
        of_relevant = group.query_id.removeprefix(PSEUDO_PREFIX).removesuffix("-copy")
        others = {one.document.id.removesuffix("-copy") for one in group.candidates[1:]}
        assert of_relevant not in others


def test_a_sentence_that_more_documents_hold_than_bm25_ranks_is_no_query() -> None:
    notice = "All rights to this very page are kept by its authors."
    changed = _changed(
        _collection(title=False),
        lambda document: dataclasses.replace(document, text=f"{document.text} {notice}"),
    )
    groups = make_pseudo_groups(changed, dataclasses.replace(OPTIONS, pseudo_queries=40, negative_depth=4))
    assert len(groups) == 40
    for group in groups:
        assert not any(group.query in other.document.full_text for other in group.candidates)


def test_nobody_asks_the_same_twice() -> None:
    title = "One title of them all"
    same = _changed(_collection(), lambda document: dataclasses.replace(document, title=title))
    all_ranked = dataclasses.replace(OPTIONS, negative_depth=100)
    queries = [group.query for group in make_pseudo_groups(same, all_ranked)]
    assert len(set(queries)) == len(queries) == 20
    assert queries.count(title) == 1


def test_documents_without_titles_give_sentences() -> None:
    groups = make_pseudo_groups(_collection(title=False), OPTIONS)
    assert len(groups) == 20
    assert all(group.query.endswith(".") for group in groups)


def _words(count: int, kind: str) -> str:
    return " ".join(f"{kind}{number}" for number in range(count)).capitalize()


def _asked(document: Document) -> set[str]:
    made = [make_query(document, random.Random(seed)) for seed in range(16)]
    return {pair[0] for pair in made if pair is not None}


@pytest.mark.parametrize(
    ("sizes", "asked"),
    [((4, 8), ()), ((5, 5), (5,)), ((5, 40), (5, 40)), ((5, 41), (5,)), ((41, 41), ())],
)
def test_a_sentence_that_is_asked_has_5_to_40_words_and_leaves_5(sizes, asked) -> None:
    sentences = [f"{_words(size, kind)}." for size, kind in zip(sizes, ("left", "right"), strict=True)]
    found = _asked(Document("d", " ".join(sentences)))
    assert found == {sentence for sentence in sentences if len(sentence.split()) in asked}


@pytest.mark.parametrize(
    ("title", "text", "is_asked"),
    [(4, 9, False), (5, 9, True), (40, 9, True), (41, 9, False), (9, 5, True), (9, 4, False)],
)
def test_a_title_that_is_asked_has_5_to_40_words_and_leaves_5(title, text, is_asked) -> None:
    """Of one sentence without its title nothing would be left, so that it is never asked."""
    document = Document("d", _words(text, "text"), _words(title, "title"))
    assert _asked(document) == ({document.title} if is_asked else set())


@pytest.mark.parametrize("text", ["", "中" * 99])
def test_nothing_is_made_of_a_text_without_words(text: str) -> None:
    assert make_query(Document("d", text), random.Random(0)) is None


def test_the_choice_depends_on_the_seed() -> None:
    first, again, other = (make_pseudo_groups(_collection(), OPTIONS, seed) for seed in (0, 0, 1))
    assert first == again
    assert [group.query_id for group in first] != [group.query_id for group in other]


def test_more_queries_than_documents_gives_what_there_is(caplog) -> None:
    groups = make_pseudo_groups(_collection(), dataclasses.replace(OPTIONS, pseudo_queries=1000))
    assert 30 < len(groups) <= 60  # BM25 does not find every document again
    assert f"data.pseudo_queries=1000: made up has enough for {len(groups)} only" in caplog.text


def test_judged_queries_stay_as_they_are_and_come_first() -> None:
    without = load_groups("demo", "train", dataclasses.replace(OPTIONS, pseudo_queries=0))
    with_pseudo = load_groups("demo", "train", OPTIONS)
    assert with_pseudo[: len(without)] == without
    assert len(with_pseudo) == len(without) + 20


def test_a_file_of_groups_asks_for_its_own_passages(tmp_path) -> None:
    texts = [document.text for document in _collection().documents.values()]
    lines = [
        json.dumps({"query": f"tea {n}", "pos": [texts[n]], "neg": texts[n + 1 : n + 4]}) for n in range(40)
    ]
    file = tmp_path / "groups.jsonl"
    file.write_text("\n".join(lines))
    groups = load_groups(str(file), "train", OPTIONS)
    made = [group for group in groups if group.query_id.startswith(PSEUDO_PREFIX)]
    given = groups[: -len(made)]
    assert len(made) == 20
    assert given == load_groups(str(file), "train", dataclasses.replace(OPTIONS, pseudo_queries=0))
    passages = {candidate.document.id for group in given for candidate in group.candidates}
    assert {candidate.document.id for group in made for candidate in group.candidates} <= passages


@pytest.mark.parametrize(("depth", "is_made"), [(1, False), (2, True)])
def test_a_query_that_bm25_answers_with_other_documents_is_left_out(depth, is_made):
    own = Document("d0", "copper silver iron zinc lead", "alpha beta gamma delta epsilon")
    better = Document("d1", "epsilon delta gamma beta alpha " * 5)
    collection = Collection("made up", {"d0": own, "d1": better}, {}, {})
    options = DataOptions(pseudo_queries=2, negative_depth=depth, negatives_per_query=1)
    made = {group.query_id for group in make_pseudo_groups(collection, options)}
    assert (f"{PSEUDO_PREFIX}d0" in made) == is_made
