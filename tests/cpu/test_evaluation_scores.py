"""An evaluation's raw scores are read as they were written, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.evaluation.score_log import QueryScores, ScoreLog
from prorank_jax.evaluation_scores import WHOLE, header_of
from prorank_jax.teacher_scores import read_teacher_scores

HEADER = {"model": "m", "dataset": "d:train", "dataset_fingerprint": {"corpus.jsonl": "0a"}, "queries": 9}
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.dictionaries(
    st.text("aü {\t", min_size=1), st.dictionaries(st.text("bé1", min_size=1), FINITE, min_size=1), min_size=1
)


def _written(file: Path, rows: dict[str, dict[str, float]], **header: int) -> Path:
    log = ScoreLog(file, HEADER | header)
    log.begin([])
    log.add({query: QueryScores(tuple(row), tuple(row.values()), 0.5) for query, row in rows.items()})
    return file


@settings(max_examples=30)  # each is written through to the disk
@given(rows=ROWS)
def test_what_an_evaluation_wrote_is_read_to_the_last_bit(rows, tmp_path_factory):
    file = _written(tmp_path_factory.mktemp("log") / "scores.jsonl", rows, **{WHOLE: len(rows)})
    assert read_teacher_scores(file) == rows
    header = header_of(file)
    assert header is not None
    assert HEADER.items() <= header.items()


def test_no_part_of_a_file_is_taken_for_the_whole(tmp_path):
    rows = {"q1": {"d1": 2.5, "d2": -1.0}, "q2": {"d1": 0.25}, "q3": {"d3": 4.0}}
    file = _written(tmp_path / "scores.jsonl", rows, **{WHOLE: 3})
    whole = file.read_bytes()
    for size in range(len(whole) - 1):  # its last byte ends a line that says all it has to
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"scores\.jsonl"):
            read_teacher_scores(file)
    file.write_bytes(whole[: whole.index(b'{"query": "q3"')])
    with pytest.raises(ValueError, match=r"holds 2 of the 3 queries of its evaluation, which was stopped"):
        read_teacher_scores(file)


def test_an_earlier_version_did_not_write_how_many_queries_there_are(tmp_path):
    rows = {"q1": {"d1": 2.5}}
    assert read_teacher_scores(_written(tmp_path / "scores.jsonl", rows)) == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3", "line 2: not the scores of a query"),
        ("{", "line 2: not the scores of a query .*repeat that evaluation"),
        ('{"query": "q", "documents": ["d"]}', "line 2: not the scores of a query .'scores'"),
        ('{"query": "q", "documents": ["d"], "scores": []}', "line 2: .*a number for each document"),
        ('{"query": "q", "documents": "d", "scores": [1]}', "line 2: .*ids that are texts"),
        ('{"query": 1, "documents": ["d"], "scores": [1]}', "line 2: .*ids that are texts"),
        ('{"query": "q", "documents": ["d"], "scores": [true]}', "line 2: .*a number for each"),
        ('{"query": "q", "documents": ["d"], "scores": ["1"]}', "line 2: .*a number for each"),
        ('{"query": "q", "documents": ["d"], "scores": [NaN]}', "line 2: the score 'nan' is not a finite"),
        ('{"query": "q", "documents": ["d"], "scores": [1e39]}', "line 2: the score '1e.39' is not a fin"),
        ('{"query": "", "documents": ["d"], "scores": [1]}', "line 2: an empty id"),
        ('{"query": "q", "documents": ["d", "d"], "scores": [1, 2]}', "line 2: .*were there before"),
    ],
)
def test_flaws_are_named_by_line(line, message, tmp_path):
    file = _written(tmp_path / "scores.jsonl", {})
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(ValueError, match=message):
        read_teacher_scores(file)


@pytest.mark.parametrize(
    "first",
    [
        {"query": "q", "pos": ["a"], "pos_scores": [1.0]},
        {"format": 2, "dataset": "d", "dataset_fingerprint": {}},
        {"format": 1, "dataset": "d"},
        {"format": 1, "dataset_fingerprint": {}},
    ],
)
def test_other_files_of_json_are_refused(first, tmp_path):
    (tmp_path / "other.jsonl").write_text(json.dumps(first) + "\n")
    with pytest.raises(
        ValueError, match=r"other\.jsonl, line 1: JSON, but not the first line of an evaluation"
    ):
        read_teacher_scores(tmp_path / "other.jsonl")


def test_an_evaluation_of_no_query_holds_no_scores(tmp_path):
    with pytest.raises(ValueError, match="holds no scores"):
        read_teacher_scores(_written(tmp_path / "scores.jsonl", {}, **{WHOLE: 0}))
