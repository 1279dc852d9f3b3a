"""Scores survive a stop: what was finished is kept, and the rest comes out as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import re
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.evaluation.first_stage import bm25_first_stage
from prorank_jax.evaluation.score_log import QueryScores, ScoreLog
from prorank_jax.evaluation.scoring import rerank, score_candidates, whole_query_chunks
from prorank_jax.evaluation_scores import WHOLE
from tests.cpu.evaluation.collections import CountingScorer, chunk_by_chunk, hash_score, small_collection

HEADER = {"model": "m", "top_k": 5, "sizes": (1, 2)}
CHUNK = 10


@pytest.fixture(scope="module")
def collection():
    return small_collection()


@pytest.fixture(scope="module")
def candidates(collection):
    found = bm25_first_stage(collection, list(collection.queries)).candidates(4)
    assert sum(map(len, found.values())) == 32
    return found


def values(scored):
    return {query: (scores.documents, scores.scores) for query, scores in scored.items()}


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 60))
def test_chunks_are_whole_queries_in_order(lengths, chunk_pairs):
    candidates = {f"q{n}": ["d"] * length for n, length in enumerate(lengths)}
    chunks = list(whole_query_chunks(candidates, chunk_pairs))
    assert [query for chunk in chunks for query in chunk] == list(candidates)
    sizes = [sum(len(candidates[query]) for query in chunk) for chunk in chunks]
    assert all(size <= chunk_pairs or len(chunk) == 1 for size, chunk in zip(sizes, chunks, strict=True))
    for size, following in zip(sizes, chunks[1:], strict=False):  # none could have been larger
        assert size + len(candidates[following[0]]) > chunk_pairs


def test_each_pair_gets_its_own_score(collection, candidates):
    reported = []
    scored = score_candidates(
        chunk_by_chunk(CountingScorer()), collection, candidates, chunk_pairs=CHUNK, on_scored=reported.append
    )
    assert list(scored) == list(candidates)
    for query, documents in candidates.items():
        pairs = [(collection.queries[query], collection.documents[name].full_text) for name in documents]
        assert scored[query].documents == tuple(documents)
        assert list(scored[query].scores) == [hash_score(pair) for pair in pairs]
    assert sum(reported) == 32


def test_progress_is_complete_when_the_model_says_nothing(collection, candidates):
    reported = []
    score_candidates(
        chunk_by_chunk(lambda pairs, _: np.zeros(len(pairs), np.float32)),
        collection,
        candidates,
        on_scored=reported.append,
    )
    assert sum(reported) == 32


@pytest.mark.parametrize("stop_at", range(4))
@pytest.mark.parametrize("torn", [b"", b'{"query": "q', b'{"query"', b"\xff"])
def test_a_stopped_evaluation_goes_on(stop_at, torn, collection, candidates, tmp_path):
    whole = CountingScorer()
    expected = score_candidates(chunk_by_chunk(whole), collection, candidates, chunk_pairs=CHUNK)
    assert len(whole.calls) == 4
    file = tmp_path / "scores.jsonl"
    stopped = CountingScorer(stop_at)
    with pytest.raises(KeyboardInterrupt):
        score_candidates(
            chunk_by_chunk(stopped), collection, candidates, log=ScoreLog(file, HEADER), chunk_pairs=CHUNK
        )
    file.write_bytes(file.read_bytes() + torn)
    resumed, known = CountingScorer(), []
    scored = score_candidates(
        chunk_by_chunk(resumed),
        collection,
        candidates,
        log=ScoreLog(file, HEADER),
        chunk_pairs=CHUNK,
        on_resumed=known.append,
    )
    assert values(scored) == values(expected)
    assert stopped.calls + resumed.calls == whole.calls
    assert known == [sum(map(len, stopped.calls))]
    again = CountingScorer()
    finished = score_candidates(
        chunk_by_chunk(again), collection, candidates, log=ScoreLog(file, HEADER), chunk_pairs=CHUNK
    )
    assert again.calls == []
    assert values(finished) == values(expected)
    assert len(file.read_text().splitlines()) == 1 + len(candidates)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_model_may_take_chunks_ahead(ahead, collection, candidates, tmp_path):
    """What it gave is kept, and what it only took is scored again."""
    file, given = tmp_path / "scores.jsonl", 0

    def eager(chunks, on_scored):
        nonlocal given
        taken = deque()
        for pairs in itertools.chain(chunks, [None] * ahead):
            taken.append(pairs)
            if len(taken) > ahead:
                if given == 2:
                    raise KeyboardInterrupt
                given += 1
                pairs = taken.popleft()
                on_scored(len(pairs))
                yield np.array([hash_score(pair) for pair in pairs], np.float32)

    options = {"chunk_pairs": CHUNK, "on_scored": lambda _: None}
    with pytest.raises(KeyboardInterrupt):
        score_candidates(eager, collection, candidates, log=ScoreLog(file, HEADER), **options)
    expected = score_candidates(chunk_by_chunk(CountingScorer()), collection, candidates, **options)
    kept = ScoreLog(file, HEADER).done
    assert len(kept) == sum(map(len, list(whole_query_chunks(candidates, CHUNK))[:2]))
    assert values(kept) == {query: values(expected)[query] for query in kept}
    given = -9
    assert values(
        score_candidates(eager, collection, candidates, log=ScoreLog(file, HEADER), **options)
    ) == values(expected)


def test_a_chunk_that_was_cut_is_scored_as_a_whole(collection, candidates, tmp_path):
    """Else the rest would be batched differently from an evaluation that never stopped."""
    file = tmp_path / "scores.jsonl"
    whole = CountingScorer()
    score_candidates(
        chunk_by_chunk(whole), collection, candidates, log=ScoreLog(file, HEADER), chunk_pairs=CHUNK
    )
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:4]))  # three queries of two chunks
    resumed = CountingScorer()
    score_candidates(
        chunk_by_chunk(resumed), collection, candidates, log=ScoreLog(file, HEADER), chunk_pairs=CHUNK
    )
    assert resumed.calls == whole.calls[1:]


def test_scores_of_other_candidates_are_not_taken_for_those_of_a_query(collection, candidates, tmp_path):
    """Each score stands beside its document: in another order they would be those of others."""
    for ranked in ({query: names[::-1] for query, names in candidates.items()}, candidates):
        log = ScoreLog(tmp_path / "scores.jsonl", HEADER)
        scored = score_candidates(chunk_by_chunk(CountingScorer()), collection, ranked, log=log)
        assert {query: list(scores.documents) for query, scores in scored.items()} == ranked


@given(scores=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_scores_are_kept_to_the_last_bit(scores, tmp_path_factory):
    file = tmp_path_factory.mktemp("log") / "scores.jsonl"
    log = ScoreLog(file, HEADER)
    log.begin([])
    kept = QueryScores(tuple(f"d{n}" for n in range(len(scores))), tuple(scores), 0.5)
    log.add({"q": kept})
    assert ScoreLog(file, HEADER).done == {"q": kept}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"top_k": 9}, "top_k is 5 there, 9 here"),
        ({"model": "n", "sizes": (1,)}, r"model is 'm' there, 'n' here, sizes is \[1, 2\] there, \[1\] here"),
        ({"new": 1}, "new is None there, 1 here"),
    ],
)
def test_the_scores_of_another_evaluation_are_left_alone(header, message, tmp_path):
    file = tmp_path / "scores.jsonl"
    ScoreLog(file, HEADER).begin([])
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        ScoreLog(file, HEADER | header)
    assert file.read_bytes() == before


def test_scores_of_a_version_that_counted_no_queries_are_gone_on_with(tmp_path):
    file = tmp_path / "scores.jsonl"
    kept = QueryScores(("d",), (1.5,), 0.5)
    ScoreLog(file, HEADER).begin([])
    ScoreLog(file, HEADER).add({"q": kept})
    log = ScoreLog(file, HEADER | {WHOLE: 3})
    assert log.done == {"q": kept}
    log.begin(["q"])
    with pytest.raises(ValueError, match=f"{WHOLE} is 3 there, 4 here"):
        ScoreLog(file, HEADER | {WHOLE: 4})


@pytest.mark.parametrize("line", ["{", "3", '{"query": "q"}', '{"query":"q","documents":["d"],"scores":[]}'])
def test_damage_before_the_end_is_named(line, tmp_path):
    file = tmp_path / "scores.jsonl"
    ScoreLog(file, HEADER).begin([])
    good = json.dumps({"query": "p", "documents": ["d"], "scores": [1.0], "seconds": 1})
    file.write_text(f"{file.read_text()}{line}\n{good}\n")
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 2: damaged"):
        ScoreLog(file, HEADER)
    file.write_text("[]\n")
    with pytest.raises(ValueError, match="not the scores of an evaluation"):
        ScoreLog(file, HEADER)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda count: np.full(count, np.nan), "with nan, and 31 more of 32"),
        (lambda count: np.where(np.arange(count) == 1, np.inf, 0), "document .* with inf, and 0 more"),
        (lambda count: np.zeros(count - 1), r"shape \(31,\) for 32 pairs"),
        (lambda count: np.zeros((count, 1)), r"shape \(32, 1\)"),
    ],
)
def test_scores_that_cannot_rank_are_refused_and_not_kept(scores, message, collection, candidates, tmp_path):
    log = ScoreLog(tmp_path / "scores.jsonl", HEADER)
    with pytest.raises(ValueError, match=message):
        score_candidates(chunk_by_chunk(lambda pairs, _: scores(len(pairs))), collection, candidates, log=log)
    assert ScoreLog(tmp_path / "scores.jsonl", HEADER).done == {}


def test_reranking_keeps_the_first_stages_order_in_ties_and_below_top_k():
    scored = QueryScores(("a", "b", "c"), (1.0, 2.0, 1.0), 0.0)
    assert rerank(["a", "b", "c", "d", "e"], scored) == ["b", "a", "c", "d", "e"]
    assert rerank(["a", "b"], None) == ["a", "b"]
    nearly = QueryScores(("a", "b"), (1.0, float(np.nextafter(np.float32(1), np.float32(2)))), 0.0)
    assert rerank(["a", "b"], nearly) == ["b", "a"]  # no tie


def test_the_seconds_of_a_chunk_are_shared_out_to_its_queries(collection, monkeypatch):
    """By their pairs; three chunks, read off a clock: 1, 2 and 4 seconds."""
    clock = iter([1.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr("prorank_jax.evaluation.scoring.time", SimpleNamespace(perf_counter=clock.__next__))
    names = list(collection.documents)
    candidates = {f"q{n}": names[:count] for n, count in enumerate([3, 5, 8, 2, 6])}
    scored = score_candidates(chunk_by_chunk(CountingScorer()), collection, candidates, chunk_pairs=8)
    seconds = {query: scores.seconds for query, scores in scored.items()}
    assert seconds == pytest.approx({"q0": 3 / 8, "q1": 5 / 8, "q2": 2, "q3": 1, "q4": 3})


def test_scores_say_which_code_and_devices_gave_them(collection, candidates, tmp_path):
    """A folder goes on under other code; a file of before this was kept says nothing of it."""
    file = tmp_path / "scores.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_candidates(
            chunk_by_chunk(CountingScorer(2)),
            collection,
            candidates,
            log=ScoreLog(file, HEADER, "a"),
            chunk_pairs=CHUNK,
        )
    first = list(ScoreLog(file, HEADER).done)
    file.write_text(re.sub(rf'("query": "{first[0]}".*), "scored_by": "a"', r"\1", file.read_text()))
    scored = score_candidates(
        chunk_by_chunk(CountingScorer()),
        collection,
        candidates,
        log=ScoreLog(file, HEADER, "b"),
        chunk_pairs=CHUNK,
    )
    expected = dict.fromkeys(candidates, "b") | dict.fromkeys(first, "a") | {first[0]: ""}
    assert len(first) < len(candidates)
    for told in (scored, ScoreLog(file, HEADER).done):
        assert {query: scores.scored_by for query, scores in told.items()} == expected
