"""A line of a training file says the same in both formats, and what is not read is not passed over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.config import DataOptions
from prorank_jax.corpora import load_groups
from prorank_jax.embedding_line import read_line
from tests.cpu.data_fixtures import write_jsonl

PLACE = "train.jsonl, line 7"
QUERIES = st.text(min_size=1).filter(str.strip)
PASSAGES = st.lists(QUERIES, max_size=4)
OTHER_WORDS = """
    posted_by position POSITION post postalCode possible_answers poster1 positivity negotiable Negation
    negligence_2 hardware hard_copy hardness hard_position is_posted my_position exposition bm25_negation
"""
LIKE_PASSAGES = """
    negs negatives neg_docs hard_negatives hard Negative positives positive_1 pos1 POS neg-2 NEG_1
    positivePassages pos.text hardNeg3 hardnegs bm25_negatives minedNegatives random_neg dense.pos.1
    all_positives BM25NEG very_hard_negatives
"""


def _as_columns(line: dict[str, Any], asked: str, in_lists: bool) -> dict[str, Any]:
    """A line of FlagEmbedding's format in the other one: several passages as lists, or in columns each."""
    relevant, others = line["pos"], line["neg"]
    columns: dict[str, Any] = {asked: line["query"]}
    columns["positive"] = relevant[0] if len(relevant) == 1 and not in_lists else relevant
    if in_lists:
        columns["negative"] = others
    else:
        columns |= {f"negative_{number}": text for number, text in enumerate(others, start=1)}
    return columns | ({"id": line["id"]} if "id" in line else {})


@given(
    line=st.fixed_dictionaries(
        {"query": QUERIES, "pos": PASSAGES, "neg": PASSAGES}, optional={"id": QUERIES}
    ),
    asked=st.sampled_from(["query", "anchor"]),
    in_lists=st.booleans(),
)
def test_both_formats_say_the_same(line: dict[str, Any], asked: str, in_lists: bool) -> None:
    read = read_line(line, PLACE)
    assert read_line(_as_columns(line, asked, in_lists), PLACE) == read
    assert (read.query, read.id) == (line["query"], line.get("id", "line-7"))
    assert read.relevant == [(text, None) for text in line["pos"]]
    assert read.irrelevant == [(text, None) for text in line["neg"]]


def test_files_of_both_formats_give_the_same_groups(tmp_path: Path) -> None:
    lines = [{"query": f"q {n}", "pos": [f"yes {n}"], "neg": [f"no {n}", f"nor {n}"]} for n in range(9)]
    # Triples have a line for each negative; one format a line, not a file.
    triples = [
        {"anchor": line["query"], "positive": line["pos"][0], "negative": text}
        for line in lines[:4]
        for text in line["neg"]
    ]
    ids = [{"id": line["query"]} for line in lines]
    of_triples = [{"id": triple["anchor"]} | triple for triple in triples]
    one = write_jsonl(tmp_path / "one.jsonl", [line | own for line, own in zip(lines, ids, strict=True)])
    rest = [line | own for line, own in zip(lines[4:], ids[4:], strict=True)]
    other = write_jsonl(tmp_path / "other.jsonl", of_triples + rest)
    assert load_groups(str(one), "all", DataOptions()) == load_groups(str(other), "all", DataOptions())


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_columns_that_are_empty_on_a_line_are_none_there(nothing: str | None, tmp_path: Path) -> None:
    columns = {"query": "q", "positive": "a", "negative": nothing, "negative_2": nothing}
    line = read_line(columns | {"negative_1": "b"}, PLACE)
    assert line.irrelevant == [("b", None)]
    records = [{"query": f"q {n}", "positive": f"yes {n}"} for n in range(9)]
    bare = write_jsonl(tmp_path / "bare.jsonl", records)
    table = write_jsonl(tmp_path / "table.jsonl", [record | {"negative": nothing} for record in records])
    mined = load_groups(str(table), "all", DataOptions())
    assert mined == load_groups(str(bare), "all", DataOptions())
    assert all(len(group.candidates) > 1 for group in mined)


@pytest.mark.parametrize(
    "extra",
    [
        {"pos_id": ["d1"], "neg_id": ["d2"], "positive_ids": ["d1"], "negative_score": "0.5"},
        {"prompt": "p", "type": "normal", "document": "not read", "score": 0.5},
        {"position": 3, "hard": True, "negs": [], "hard_negatives": None, "positives": " "},
        {"hard_negative_ids": ["d2"], "positiveScore": "0.5", "pos_tags": "NN VB"},
        {"id_of_negative": "d2", "score_pos": "0.5", "mined_neg_ids": ["d2"], "tagsOfPositives": ["a"]},
        {"negative_count": "3", "num_negatives": 3, "has_pos": True, "bm25_negatives": []},
    ],
)
def test_other_fields_are_ignored_where_they_hold_no_passages(extra: dict[str, Any]) -> None:
    plain = {"query": "q", "pos": ["a"], "neg": ["b"]}
    assert read_line(plain | extra, PLACE) == read_line(plain, PLACE)


@pytest.mark.parametrize(
    "name",
    OTHER_WORDS.split(),
)
@pytest.mark.parametrize("line", [{"query": "q", "pos": ["a"]}, {"anchor": "q", "positive": "a"}])
def test_words_that_begin_as_those_for_passages_name_none(name: str, line: dict[str, Any]) -> None:
    for value in ("text", ["text"], {"text": "t"}):
        assert read_line(line | {name: value}, PLACE) == read_line(line, PLACE)


@pytest.mark.parametrize(
    "name",
    LIKE_PASSAGES.split(),
)
@pytest.mark.parametrize("value", ["text", ["text"], [{"text": "t"}], {"text": "t"}])
@pytest.mark.parametrize("line", [{"query": "q", "pos": ["a"]}, {"anchor": "q", "positive": "a"}])
def test_passages_under_another_name_are_refused(name: str, value: object, line: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{PLACE}: '{name}' looks like passages, and is not read; rename"):
        read_line(line | {name: value}, PLACE)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"query": "q", "pos": ["a"], "negative": "b"},
            "'pos' and 'negative' are of two formats; a line has",
        ),
        ({"query": "q", "positive": "a", "neg": ["b"]}, "'neg' and 'positive' are of two formats"),
        (
            {"query": "q", "positive": "a", "pos_scores": [1]},
            "'pos_scores' and 'positive' are of two formats",
        ),
        ({"anchor": "q", "pos": ["a"]}, "'pos' and 'anchor' are of two formats"),
        ({"anchor": "q", "query": "q", "positive": "a"}, "has both query and anchor; keep one"),
        ({"anchor": "q", "negative": "b"}, "no field 'positive'; a line has query and pos"),
        ({"query": "q", "text": "a", "score": 1}, "no field 'pos'; a line has query and pos"),
        ({"positive": "a", "negative": "b"}, "no field 'query' (there: 'positive', 'negative'); add it"),
        ({"anchor": " ", "positive": "a"}, "anchor is empty"),
        ({"anchor": "q", "positive": None}, "positive must be a string or a list of strings"),
        ({"anchor": "q", "positive": ["a", 1]}, "positive must be a string or a list of strings"),
        ({"anchor": "q", "positive": " "}, "positive holds an empty passage"),
        ({"anchor": "q", "positive": "a", "negative_2": 3}, "negative_2 must be a string or a list"),
    ],
)
def test_flaws_are_named_with_their_line(record: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{PLACE}: {expected}")):
        read_line(record, PLACE)
