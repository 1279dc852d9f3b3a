"""Teacher scores are read exactly or refused by line, and land on the candidates they belong to."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.embedding_jsonl import read_embedding_groups
from prorank_jax.negatives import make_groups
from prorank_jax.teacher_scores import (
    add_teacher_candidates,
    attach_scores,
    read_teacher_scores,
)
from prorank_jax.trec import write_run
from prorank_jax.types import Candidate, Document, RankingGroup
from tests.cpu.data_fixtures import write_jsonl

SCORES = {"q1": {"d1": 2.5, "d2": -1.0}, "q 2": {"d1": 1e-3}}


def _write(folder: Path, text: str | bytes) -> Path:
    path = folder / "teacher"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "q1\td1\t2.5\nq1\td2\t-1\nq 2\td1\t1e-3\n",
        "query-id\tcorpus-id\tscore\nq1\td1\t2.5\nq1\td2\t-1.\n\nq 2\td1\t.001",
        "\ufeffq1\td1\t+2.5\r\nq1\td2\t-1\r\nq 2 \t d1\t 1E-3\r\n",
    ],
)
def test_tsv(tmp_path: Path, text: str) -> None:
    assert read_teacher_scores(_write(tmp_path, text)) == SCORES


def test_trec_run_by_score_not_by_rank(tmp_path: Path) -> None:
    text = "q1 Q0 d1 7 2.5 bm25\nq1\tQ0\td2\t1\t-1\tbm25\n  q2   0 d1 1 0.25  x\n"
    expected = {"q1": {"d1": 2.5, "d2": -1.0}, "q2": {"d1": 0.25}}
    scores = read_teacher_scores(str(_write(tmp_path, text)))
    assert scores == expected
    assert [list(of_query) for of_query in scores.values()] == [["d1", "d2"], ["d1"]]


@given(
    scores=st.dictionaries(
        st.text("aé1._-", min_size=1),
        st.dictionaries(
            st.text("bü2.", min_size=1), st.floats(width=32, allow_nan=False, allow_infinity=False)
        ),
    ).filter(lambda scores: any(scores.values())),
    as_run=st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, scores: dict[str, dict[str, float]], as_run: bool
) -> None:
    assume(
        not as_run or any(sorted(row.values()) != [*range(1, len(row) + 1)] for row in scores.values() if row)
    )
    line = "{0} Q0 {1} 1 {2!r} tag\n" if as_run else "{0}\t{1}\t{2!r}\n"
    pairs = [(query, document, score) for query, row in scores.items() for document, score in row.items()]
    path = _write(tmp_path_factory.mktemp("scores"), "".join(line.format(*pair) for pair in pairs))
    assert read_teacher_scores(path) == {query: row for query, row in scores.items() if row}


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1).filter(lambda lengths: max(lengths) > 1),
    seed=st.integers(0, 9),
)
def test_a_run_of_ranks_is_no_teacher_but_a_tsv_of_them_is_meant(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int
) -> None:
    """Whatever the order of its lines; one score that is no rank makes it a run of scores."""
    rankings = {f"q{n}": [f"d{i}" for i in range(length)] for n, length in enumerate(lengths)}
    path = tmp_path_factory.mktemp("run") / "reranked.trec"
    write_run(path, rankings, "reranked")
    lines = path.read_text().splitlines()
    random.Random(seed).shuffle(lines)
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"reranked\.trec: its scores are ranks"):
        read_teacher_scores(path)
    rows = [line.split() for line in lines]
    path.write_text("".join(f"{row[0]}\t{row[2]}\t{row[4]}\n" for row in rows))
    ranks = {query: {name: len(row) - i for i, name in enumerate(row)} for query, row in rankings.items()}
    assert read_teacher_scores(path) == ranks
    rows[0][4] += ".5"
    path.write_text("".join(" ".join(row) + "\n" for row in rows))
    assert read_teacher_scores(path)[rows[0][0]][rows[0][2]] == float(rows[0][4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1\td1\tnan\n", "line 1: the score 'nan' is not a finite"),
        ("q1\td1\t1\nq1\td2\tNaN\n", "line 2: the score 'NaN'"),
        ("q1 Q0 d1 1 inf run\n", "line 1: the score 'inf'"),
        ("q1\td1\t1e39\n", "line 1: the score '1e39' is not a finite float32"),
        ("q1\td1\t1_0\n", "line 1: the score '1_0'"),
        ("q1\td1\t\n", "line 1: the score ''"),
        ("q1\td1\t-\n", "line 1: the score '-'"),
        ("q1\td1\t1\nq1\td2\tgood\n", "line 2: the score 'good'"),
        ("q1\td1\t1\n\nq1\td1\t1\n", "line 3: query 'q1' and document 'd1' were there before"),
        ("q1 Q0 d1 1 2 a\nq1 Q0 d1 2 1 a\n", "line 2: query 'q1' and document 'd1' were there before"),
        ("q1,d1,0.5\n", "line 1: neither three columns between tabs nor six between spaces"),
        ("q1 d1 0.5\n", "line 1: neither three columns"),
        ("q1\td1\t1\nq1\td2\n", "line 2: other columns than the lines before"),
        ("q1\td1\t1\nq1 Q0 d2 1 2 a\n", "line 2: other columns"),
        ("q1 Q0 d1 1 2 a\nq1 Q0 d2 1 2 my tag\n", "line 2: other columns"),
        ("q1\t\t1\n", "line 1: an empty id"),
        ("\td1\t1\n", "line 1: an empty id"),
        (b"q1\td1\t1\nq\xff\td1\t1\n", "line 2: byte 2 is not UTF-8"),
        ("", "holds no scores"),
        ("\n \n", "holds no scores"),
        ("query\tdocument\tscore\n", "holds no scores"),
    ],
)
def test_flaws_are_named_by_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ValueError, match="teacher") as caught:
        read_teacher_scores(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tsv", tmp_path):
        with pytest.raises(ValueError, match="no such file of teacher scores"):
            read_teacher_scores(path)


def _group(query: str, **grades: int) -> RankingGroup:
    candidates = tuple(Candidate(Document(name, f"text {name}"), grade) for name, grade in grades.items())
    return RankingGroup(query, f"about {query}", candidates)


def _scores_of(group: RankingGroup) -> dict[str, float | None]:
    return {candidate.document.id: candidate.score for candidate in group.candidates}


GROUPS = [_group("q1", d1=1, d2=0, d3=0), _group("q2", d4=2, d1=0)]


def test_each_candidate_gets_its_own_score() -> None:
    scores = {"q2": {"d1": 3.0}, "q1": {"d2": 2.0, "d1": -1.0}}
    first, second = attach_scores(GROUPS, scores)
    assert _scores_of(first) == {"d1": -1.0, "d2": 2.0, "d3": None}
    assert _scores_of(second) == {"d4": None, "d1": 3.0}
    assert [(c.document, c.grade) for c in first.candidates] == [
        (c.document, c.grade) for c in GROUPS[0].candidates
    ]
    assert _scores_of(GROUPS[0]) == dict.fromkeys(("d1", "d2", "d3"))


def test_two_teachers_are_never_mixed() -> None:
    before = attach_scores(GROUPS, {"q1": {"d1": 9.0, "d3": 9.0}, "q2": {"d4": 9.0}})
    after = attach_scores(before, {"q1": {"d3": 0.5}})
    assert [_scores_of(group) for group in after] == [
        {"d1": None, "d2": None, "d3": 0.5},
        {"d4": None, "d1": None},
    ]


def test_scores_without_use_are_told(caplog: pytest.LogCaptureFixture) -> None:
    attach_scores(GROUPS, {"q1": {"d1": 1.0, "other": 1.0}, "elsewhere": {"d1": 1.0}})
    assert "1 queries that are not trained on are left out" in caplog.text
    assert "1 of 2 queries have none ('q2')" in caplog.text
    assert "of 5 candidates 1 have one" in caplog.text
    assert "1 are of documents that are no candidates" in caplog.text


def test_scores_of_another_collection_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"none of their 2 queries \('x1', 'x2'\).*2 to train on \('q1', 'q2'\)"
    ):
        attach_scores(GROUPS, {"x1": {"d1": 1.0}, "x2": {"d1": 1.0}})
    with pytest.raises(
        ValueError, match=r"none of the documents scored \('D1'\).*'d1', 'd2', 'd3' and 1 more"
    ):
        attach_scores(GROUPS, {"q1": {"D1": 1.0}})


def _collection() -> Collection:
    documents = {f"d{i}": Document(f"d{i}", f"document number {i}") for i in range(1, 10)}
    return Collection(
        "made up", documents, {"q1": "one", "q2": "two"}, {"q1": {"d1": 1}, "q2": {"d4": 2, "d1": 0}}
    )


def test_the_teachers_best_become_candidates() -> None:
    """d1 is judged and d2 mined already; d7 and d6 tie, so the id decides."""
    scores = {"q1": {"d9": 0.1, "d7": 0.6, "d6": 0.6, "d2": 0.7, "d1": 0.9}}
    first, second = add_teacher_candidates(GROUPS, scores, _collection(), depth=3)
    assert _scores_of(first) == {"d1": 0.9, "d2": 0.7, "d3": None, "d6": 0.6, "d7": 0.6}
    assert list(_scores_of(first))[3:] == ["d6", "d7"]
    assert [c.grade for c in first.candidates] == [1, 0, 0, 0, 0]
    assert first.candidates[3].document.text == "document number 6"
    assert second == GROUPS[1]


def test_a_document_that_is_the_query_itself_becomes_no_candidate() -> None:
    """As in ArguAna and Quora; where ids are merely numbers, another text under the same one may be."""
    texts = {"q1": "about q1", "q2": "something else", "d1": "text", "d4": "other text"}
    documents = {name: Document(name, text) for name, text in texts.items()}
    queries = {group.query_id: group.query for group in GROUPS}
    collection = Collection("own", documents, queries, {"q1": {"d1": 1}, "q2": {"d4": 2}})
    scores = {query: {"q1": 3.0, "q2": 2.0, "d1": 1.0, "d4": 0.5} for query in ("q1", "q2")}
    first, second = add_teacher_candidates(GROUPS, scores, collection, depth=2)
    assert list(_scores_of(first))[3:] == ["q2", "d4"]
    assert list(_scores_of(second))[2:] == ["q1", "q2"]


def test_copies_of_a_relevant_document_and_what_says_the_query_become_no_candidates() -> None:
    """A teacher scores them best, and they would have the grade of a negative."""
    collection = _collection()
    documents = collection.documents | {
        "copy": Document("copy", "document number 1"),
        "asked": Document("asked", " ONE"),
    }
    collection = dataclasses.replace(collection, documents=documents)
    scores = {"q1": {"copy": 0.9, "asked": 0.8, "d7": 0.1}, "q2": {"copy": 0.9, "asked": 0.8}}
    first, second = add_teacher_candidates(GROUPS, scores, collection, depth=3)
    assert list(_scores_of(first))[3:] == ["d7"]
    assert list(_scores_of(second))[2:] == ["copy", "asked"]  # d1 is not relevant to q2, "ONE" is not "two"


def test_without_depth_nothing_is_added() -> None:
    scores = {"q1": {"d1": 0.9, "d7": 0.6}}
    assert add_teacher_candidates(GROUPS, scores, _collection(), 0) == attach_scores(GROUPS, scores)


def test_candidates_may_all_come_from_the_teacher() -> None:
    first, _ = add_teacher_candidates(GROUPS, {"q1": {"d8": 0.5}}, _collection(), depth=1)
    assert _scores_of(first) == {"d1": None, "d2": None, "d3": None, "d8": 0.5}


def test_unknown_documents_are_refused() -> None:
    foreign = {"q1": {"d1": 1.0, "nowhere": 2.0}, "another split": {"unknown there": 1.0}}
    with pytest.raises(ValueError, match=r"1 documents are not in made up \('nowhere'\)"):
        add_teacher_candidates(GROUPS, foreign, _collection(), depth=0)
    with pytest.raises(ValueError, match="none of their 1 queries"):
        add_teacher_candidates(GROUPS, {"x": {"d1": 1.0}}, _collection(), depth=2)
    with pytest.raises(ValueError, match=r"data\.teacher_depth=-1"):
        add_teacher_candidates(GROUPS, {"q1": {"d1": 1.0}}, _collection(), depth=-1)


@given(rows=st.dictionaries(st.integers(1, 9), st.integers(-3, 3), min_size=1), depth=st.integers(0, 12))
def test_added_candidates_are_the_best_unjudged(rows: dict[int, int], depth: int) -> None:
    collection = _collection()
    groups = make_groups(collection, DataOptions(negatives_per_query=2, hard_negatives=0.0))
    of_query = {f"d{document}": float(score) for document, score in rows.items()}
    scores = {"q1": of_query, "q2": {"d4": 0.0}}
    widened, _ = add_teacher_candidates(groups, scores, collection, depth)
    there = _scores_of(widened)
    assert len(there) == len(widened.candidates)
    assert there == {document: of_query.get(document) for document in there}
    unjudged = [document for document in of_query if document != "d1"]
    added = [document for document in unjudged if document in there]
    assert len(added) >= min(depth, len(unjudged))
    left_out = [of_query[document] for document in unjudged if document not in there]
    chosen = sorted((of_query[document] for document in added), reverse=True)[:depth]
    assert max(left_out, default=-math.inf) <= min(chosen, default=math.inf)


def test_scores_of_a_file_replace_those_of_an_embedding_file(tmp_path: Path) -> None:
    lines = [
        {
            "id": f"q{i}",
            "query": f"query {i}",
            "pos": ["a"],
            "neg": ["b"],
            "pos_scores": [0.9],
            "neg_scores": [0.2],
        }
        for i in range(20)
    ]
    groups = read_embedding_groups(write_jsonl(tmp_path / "train.jsonl", lines), "train", DataOptions())
    assert [candidate.score for candidate in groups[0].candidates] == [0.9, 0.2]
    relevant = groups[0].candidates[0].document.id
    path = _write(tmp_path, f"{groups[0].query_id}\t{relevant}\t7.5\n")
    first, *_ = attach_scores(groups, read_teacher_scores(path))
    assert [candidate.score for candidate in first.candidates] == [7.5, None]
