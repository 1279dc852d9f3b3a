"""Scores of pairs of texts: read from lines, and put beside the candidates that say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.pair_scores import attach_pair_scores, holds_pair_scores, read_pair_scores
from prorank_jax.types import Candidate, Document, RankingGroup
from tests.cpu.data_fixtures import write_jsonl

PAIR = {"query": "what is tea", "passage": "a drink", "score": 0.5}
TEXTS = st.text(min_size=1).filter(str.strip)


def read(folder: Path, *records: dict[str, object]) -> float | None:
    return read_pair_scores(write_jsonl(folder / "scored.jsonl", records)).get("what is tea", "a drink")


@pytest.mark.parametrize(
    ("record", "score"),
    [
        (PAIR, 0.5),
        (PAIR | {"score": -3}, -3.0),
        (PAIR | {"score": 7, "label": 1}, 7.0),
        (PAIR | {"query_id": "q", "document_id": "d", "grade": 2}, 0.5),
        ({"sentence1": "what is tea", "sentence2": "a drink", "label": 0.25}, 0.25),
    ],
    ids=["score", "whole number", "beside a label", "as written for a teacher", "sentence-transformers"],
)
def test_the_score_of_a_line(record, score, tmp_path):
    assert read(tmp_path, record) == score


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([PAIR | {"score": "0.5"}], "line 1: score='0.5' is str"),
        ([PAIR | {"score": float("nan")}], "line 1: score=nan is no finite number"),
        ([PAIR | {"score": None}], "line 1: no score; write the teacher's"),
        ([PAIR | {"score": True}], "line 1: score=True is a grade; .* as score, a number"),
        ([PAIR | {"score": 10**400}], "line 1: score=1000.* is no finite number"),
        ([{"query": "a", "passage": "b", "label": 1}], "line 1: label=1 is a grade; .* as score, a number"),
        ([PAIR, PAIR | {"score": 0.6}], "line 2: the score 0.6 for texts that have 0.5; keep one"),
        ([PAIR, {"query": "a", "passage": " ", "score": 1.0}], "line 2: passage is empty"),
        ([PAIR, {"query": "a", "score": 1.0}], "line 2: "),
    ],
)
def test_lines_without_one_score_are_refused(records, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, *records)


def test_copies_of_a_text_may_differ_by_a_rounding(tmp_path):
    assert read(tmp_path, PAIR, PAIR | {"score": 0.5004}) == 0.5
    one_step = [PAIR | {"score": 8.0}, PAIR | {"score": 8.0625}]  # of bfloat16
    assert read(tmp_path, *one_step) == 8.0


@pytest.mark.parametrize(
    ("line", "is_pair"),
    [
        (json.dumps(PAIR), True),
        (json.dumps({"query": "a", "pos": ["b"]}), False),
        (json.dumps({"format": 1, "dataset": "demo", "dataset_fingerprint": {}}), False),
        ("q1\td1\t0.5", False),
        ("q1 Q0 d1 1 0.5 run", False),
        ("[1, 2]", False),
        ("", False),
    ],
)
def test_the_first_line_tells_pairs_from_other_scores(line, is_pair, tmp_path):
    (tmp_path / "scores").write_text(line + "\n")
    assert holds_pair_scores(tmp_path / "scores") == is_pair


def group(query: str, *texts: str) -> RankingGroup:
    candidates = tuple(Candidate(Document(str(n), text), 0, score=9.0) for n, text in enumerate(texts))
    return RankingGroup(f"id of {query}", query, candidates)


@given(
    rows=st.dictionaries(st.tuples(TEXTS, TEXTS), st.floats(-9, 9), min_size=1, max_size=8), data=st.data()
)
def test_candidates_get_the_score_of_their_texts(tmp_path_factory, rows, data):
    file = tmp_path_factory.mktemp("scored") / "scored.jsonl"
    write_jsonl(file, [{"query": q, "passage": p, "score": score} for (q, p), score in rows.items()])
    asked = [*data.draw(st.lists(st.sampled_from(sorted(rows)), min_size=1)), ("unasked", "unread")]
    attached = attach_pair_scores([group(*pair, pair[1] + "!") for pair in asked], read_pair_scores(file))
    for one, (query, passage) in zip(attached, asked, strict=True):
        expected = [rows.get((query, passage)), rows.get((query, passage + "!"))]
        assert [candidate.score for candidate in one.candidates] == expected


def test_a_title_is_part_of_what_is_scored(tmp_path):
    scores = read_pair_scores(write_jsonl(tmp_path / "f", [PAIR | {"passage": "Tea a drink"}]))
    titled = Candidate(Document("d", "a drink", title="Tea"), 1)
    (attached,) = attach_pair_scores([RankingGroup("q", "what is tea", (titled,))], scores)
    assert attached.candidates[0].score == 0.5


def test_scores_of_other_texts_are_refused(tmp_path):
    scores = read_pair_scores(write_jsonl(tmp_path / "f", [PAIR]))
    told = "none of their 1 pairs has the texts of a query to train on (as 'what is coffee') and of one"
    with pytest.raises(ValueError, match=re.escape(told)):
        attach_pair_scores([group("what is coffee", "a drink")], scores)


def test_what_is_scored_and_what_is_not_is_counted(tmp_path, caplog):
    scores = read_pair_scores(write_jsonl(tmp_path / "f", [PAIR, PAIR | {"query": "elsewhere"}]))
    attach_pair_scores(
        [group("what is tea", "a drink", "a stone", " "), group("what is ink", "a dye")], scores
    )
    assert "1 of 2 queries have none ('what is ink')" in caplog.text
    assert "of 3 pairs 1 have one; launch/training_pairs.py writes all pairs of a config" in caplog.text
    assert "1 are of pairs that are not trained on" in caplog.text


def test_of_a_whole_teacher_no_remedy_is_told(tmp_path, caplog):
    scores = read_pair_scores(write_jsonl(tmp_path / "f", [PAIR]))
    attach_pair_scores([group("what is tea", "a drink", "")], scores)
    assert caplog.messages == ["teacher scores: of 1 pairs 1 have one"]
