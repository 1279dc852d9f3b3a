"""A labelled pair is read by each of its names; what could be read in two ways is refused with its line."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.embedding_line import read_line
from prorank_jax.pair_line import PASSAGES, QUERIES, LabelledPair

PLACE = "pairs.jsonl, line 7"
TEXTS = st.text(min_size=1).filter(str.strip)
SCORES = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(
    names=st.tuples(st.sampled_from(QUERIES), st.sampled_from(PASSAGES)),
    query=TEXTS,
    passage=TEXTS,
    grade=st.integers(0, 999_999_999),
    score=SCORES,
)
def test_all_names_say_the_same(
    names: tuple[str, str], query: str, passage: str, grade: int, score: float
) -> None:
    """Through JSON, as a file holds it: there a float keeps its decimal point."""
    asked, answered = names

    def read(**labels: object) -> LabelledPair | None:
        record = json.loads(json.dumps({"idx": 3, answered: passage, asked: query} | labels))
        line = read_line(record, PLACE)
        assert (line.id, line.query, line.relevant, line.irrelevant) == ("line-7", query, [], [])
        return line.pair

    for name in ("label", "score"):
        assert read(**{name: grade}) == LabelledPair(query, passage, grade, None, f"{name}={grade}", name)
        assert read(**{name: score}) == LabelledPair(query, passage, None, score, f"{name}={score}", name)
    both = LabelledPair(query, passage, grade, score, f"label={grade}", "label")
    assert read(label=grade, score=score) == both
    assert read(score=score, label=grade) == both


def test_both_numbers_may_be_integers_and_a_grade_may_be_said_in_words() -> None:
    record = {"query": "q", "passage": "p"}
    pair = read_line(record | {"label": 2, "score": 3}, PLACE).pair
    assert pair == LabelledPair("q", "p", 2, 3.0, "label=2", "label")
    grades = [read_line(record | {"label": value}, PLACE).pair.grade for value in (True, False)]
    assert grades == [1, 0]
    assert all(type(grade) is int for grade in grades)


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_columns_that_are_empty_on_a_line_are_not_there(nothing: str | None) -> None:
    filled = {"question": "q", "answer": "a", "label": 1}
    others = {"query": nothing, "passage": nothing, "positive": nothing, "score": nothing}
    assert read_line(others | filled, PLACE) == read_line(filled, PLACE)


def test_a_table_of_positives_or_of_triplets_stays_one() -> None:
    """A number beside negatives is the margin or the class of all of them: none of one passage."""
    for more in ({"negative": "n", "label": 0.5}, {"negative": None, "label": 1}, {"label": None}, {}):
        line = read_line({"anchor": "q", "positive": "p"} | more, PLACE)
        assert (line.relevant, line.pair) == ([("p", None)], None)
        assert line.lacks_label == (more == {"label": None})
    several = {"anchor": "q", "positive": ["p", "r"], "label": 1}
    assert read_line(several, PLACE).relevant == [("p", None), ("r", None)]


PAIR = {"query": "q", "passage": "p", "label": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"label": None},
            "passage has no label and no score; add one, or where every passage is relevant rename the field",
        ),
        ({"label": "1"}, "label='1' is str; write it as a number, or rename the field"),
        ({"label": [1]}, "label=[1] is list; write it as a number"),
        ({"label": -1}, "label=-1 is no grade; write 0 for an irrelevant passage"),
        ({"label": 10**9}, "label=1000000000 is no grade"),
        ({"label": 10**40}, f"label={10**40} is no finite number (float32)"),
        ({"label": float("nan")}, "label=nan is no finite number (float32); correct or remove it"),
        ({"score": 1e39}, "score=1e+39 is no finite number (float32)"),
        (
            {"label": 0.5, "score": 2},
            "label=0.5 and score=2 are two scores; keep one, or write label as an int",
        ),
        ({"question": "r"}, "has both query and question; keep one"),
        ({"answer": "r"}, "has both passage and answer; keep one"),
        ({"positive": "r"}, "has both passage and positive; keep one"),
        ({"query": " "}, "query is empty; give it a text or leave the line out"),
        ({"query": None}, "query=None is NoneType; write it as a string"),
        ({"passage": ""}, "passage is empty; give it a text or leave the line out"),
        ({"passage": ["p"]}, "passage=['p'] is list; write it as a string"),
        (
            {"hard_negatives": ["n"]},
            "'hard_negatives' looks like passages, and is not read; rename or remove",
        ),
        ({"id": [1]}, "id=[1] is list; write it as a string"),
    ],
)
def test_flaws_are_named_with_their_line(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{PLACE}: {expected}")):
        read_line(PAIR | change, PLACE)


@pytest.mark.parametrize(("name", "meant"), [("labels", "label"), ("scores", "score")])
def test_a_number_under_another_librarys_name_for_a_label_is_not_passed_over(name: str, meant: str) -> None:
    expected = f"{PLACE}: {name}=0 is not read; rename it {meant}, or remove it"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_line({"query": "q", "positive": "p", name: 0}, PLACE)
    for other in ({"negative": "n", name: 0}, {name: [0, 1]}, {name: None}):
        assert read_line({"query": "q", "positive": "p"} | other, PLACE).relevant == [("p", None)]


def test_a_pair_without_a_query_says_which_fields_there_are() -> None:
    expected = f"{PLACE}: no field 'query' (there: 'answer', 'label'); add it"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_line({"answer": "a", "label": 1}, PLACE)


NAMES = (
    *QUERIES,
    *PASSAGES,
    "label",
    "score",
    "pos",
    "neg",
    "pos_scores",
    "negative",
    "negative_1",
    "id",
    "x",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(record=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["q", 1, 0.5]) | VALUES, max_size=6))
def test_any_object_is_a_line_or_one_sentence_with_its_place(record: dict[str, Any]) -> None:
    said = ""
    try:
        line = read_line(record, PLACE)
    except ValueError as error:
        said = str(error)
    if said:
        assert said.startswith(f"{PLACE}: ")
        return
    assert line.query.strip()
    if line.pair is not None:
        assert line.pair.passage.strip()
        assert line.relevant == line.irrelevant == []
        assert line.pair.grade is not None or line.pair.score is not None
