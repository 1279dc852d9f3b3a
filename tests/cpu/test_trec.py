"""Run files: what is written is read back in one order, and every flaw is named."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.trec import check_writable_ids, read_run, read_scores, scores_of, write_run
from tests.cpu.evaluation.collections import small_collection


@pytest.fixture
def run_file(tmp_path):
    def write(*lines):
        file = tmp_path / "run.trec"
        file.write_text("".join(f"{line}\n" for line in lines))
        return file

    return write


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_written_run_has_one_order_for_every_tool(lengths, seed, tmp_path_factory):
    rng = random.Random(seed)
    rankings = {f"q{n}": rng.sample([f"d{i}" for i in range(50)], k) for n, k in enumerate(lengths)}
    file = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(file, rankings, "tag")
    assert read_run(file) == rankings
    scores: dict[str, list[float]] = {}
    for line in file.read_text().splitlines():
        query, _, _, _, score, _ = line.split()
        scores.setdefault(query, []).append(np.float32(score))
    for column in scores.values():  # strictly falling, also in float32: no tool has a tie to break
        assert (np.diff(column) < 0).all()


def test_a_long_ranking_has_no_ties_in_float32(tmp_path):
    write_run(tmp_path / "run", {"q": [f"d{n}" for n in range(20_000)]}, "tag")
    scores = np.loadtxt(tmp_path / "run", usecols=4, dtype=np.float32)
    assert (np.diff(scores) < 0).all()


def test_scores_decide_and_ranks_break_ties(run_file):
    file = run_file("q Q0 b 3 1.5 t", "q Q0 a 2 1.5 t", "q Q0 c 1 9e0 t", "", "p Q0 a 0 -1 t")
    assert read_run(file) == {"q": ["c", "a", "b"], "p": ["a"]}
    scores = read_scores(file)["q"]
    assert list(scores.items()) == [("c", 9.0), ("a", 1.5), ("b", 1.5)]


def test_without_ranks_ties_are_broken_as_trec_eval_does(run_file):
    lines = [f"q Q0 {document} 0 {score} t" for document, score in (("a", 1), ("c", 1), ("b", 1), ("z", 0))]
    assert read_run(run_file(*lines)) == {"q": ["c", "b", "a", "z"]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q Q0 d 1 2.0"], "line 1: 5 columns; a TREC run has six"),
        (["q Q0 d 1 2.0 t", "q Q0 e one 2.0 t"], "line 2: rank 'one'"),
        (["q Q0 d 1 high t"], "score 'high'"),
        (["q Q0 d 1 nan t"], "the score is nan"),
        (["q Q0 d 1 inf t"], "the score is inf"),
        (["q Q0 d 1 2 t", "q Q0 d 2 1 t"], "line 2: the document 'd' was there before.*line 1"),
        (["q Q0 d 1 0.1 t", "q Q0 e 2 0.9 t"], "better ranks need higher scores"),
        ([], "holds no line"),
    ],
)
def test_flaws_are_named(lines, message, run_file):
    with pytest.raises(ValueError, match=message):
        read_run(run_file(*lines))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such run file"):
        read_run(tmp_path / "absent.trec")


def known_scores(file):
    return scores_of(file, read_scores(file), small_collection())


def test_unknown_ids_are_named(run_file):
    with pytest.raises(ValueError, match=r"1 documents that small/test lacks .'x'"):
        known_scores(run_file("q1 Q0 d1 1 5 t", "q1 Q0 x 2 1 t"))
    with pytest.raises(ValueError, match=r"2 queries that small/test lacks .'q98', 'q99'"):
        known_scores(run_file("q99 Q0 d1 1 1 t", "q98 Q0 d1 1 1 t"))


def test_queries_of_another_split_are_left_out_with_a_warning(run_file, caplog):
    lines = ["q1 Q0 d1 1 5 t", "q99 Q0 d1 1 1 t", "q99 Q0 of-another-split 2 0 t"]
    assert known_scores(run_file(*lines)) == {"q1": {"d1": 5.0}}
    assert "1 of its 2 queries are not among those of small/test ('q99')" in caplog.text


def test_of_a_large_run_only_the_queries_that_are_wanted_are_kept(run_file):
    """And every line is checked all the same."""
    lines = ["q1 Q0 d1 1 5 t", "q99 Q0 d1 1 1 t", "q1 Q0 d2 2 4 t"]
    assert read_run(run_file(*lines), {"q1", "q2"}) == {"q1": ["d1", "d2"]}
    assert read_run(run_file(*lines), set()) == {}
    with pytest.raises(ValueError, match="line 2: the score is nan"):
        read_run(run_file("q1 Q0 d1 1 5 t", "q99 Q0 d1 1 nan t"), {"q1"})


def test_ids_with_white_space_are_refused_before_anything_is_scored():
    check_writable_ids({"q": ["d-1", "é"]})
    with pytest.raises(ValueError, match="'d 1' holds white space"):
        check_writable_ids({"q": ["d 1"]})
