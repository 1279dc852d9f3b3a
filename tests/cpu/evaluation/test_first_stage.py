"""What a reranker is given: BM25 or a run, for the queries that count."""

from __future__ import annotations

import dataclasses

import pytest

from prorank_jax.collection import Collection
from prorank_jax.corpora import load_collection
from prorank_jax.evaluation.first_stage import (
    LEAST_DEPTH,
    FirstStage,
    bm25_first_stage,
    counted_queries,
    drop_queries_themselves,
    make_first_stage,
    run_first_stage,
    sample_queries,
)
from prorank_jax.evaluation.harness import measure
from prorank_jax.evaluation.metrics import METRICS, means
from prorank_jax.self_retrieval import is_the_query
from prorank_jax.trec import write_run
from prorank_jax.types import Document
from tests.cpu.data_fixtures import REAL_DATA
from tests.cpu.evaluation.collections import small_collection

SELF = "the very same argument about taxes"


def collection_with_a_query_in_it(query_id="a1", text=SELF) -> Collection:
    texts = {"a1": text, "a2": "another argument about taxes", "a3": "nothing of the kind"}
    documents = {name: Document(name, body, "politics") for name, body in texts.items()}
    return Collection("arguments/test", documents, {query_id: SELF}, {query_id: {"a2": 1}})


def test_queries_without_a_relevant_document_do_not_count():
    collection = small_collection()
    qrels = collection.qrels | {"q1": {"d1": 0}, "q2": {"d1": -1, "d2": 0}}
    changed = dataclasses.replace(collection, qrels=qrels)
    assert counted_queries(changed) == [query for query in collection.qrels if query not in ("q1", "q2")]
    with pytest.raises(ValueError, match="none of its 1 judged queries has a relevant document"):
        counted_queries(dataclasses.replace(collection, qrels={"q1": {"d1": 0}}))


def test_a_sample_is_fixed_and_in_order():
    queries = [f"q{number}" for number in range(50)]
    sample = sample_queries(queries, 10)
    assert sample == sample_queries(queries, 10)
    assert len(set(sample)) == 10
    assert sample == [query for query in queries if query in sample] != queries[:10]
    assert sample_queries(queries, 50) == sample_queries(queries, None) == queries
    # Pinned: figures on samples are compared with earlier ones.
    assert sample_queries(queries, 5) == ["q2", "q16", "q24", "q26", "q48"]


def test_bm25_ranks_what_shares_a_word_and_ties_stand_in_corpus_order():
    documents = {name: Document(name, text) for name, text in (("z", "cat"), ("b", "dog"), ("a", "cat"))}
    collection = Collection("c", documents, {"q": "cats", "none": "unicorn"}, {"q": {"a": 1}})
    first_stage = bm25_first_stage(collection, ["q", "none"])
    assert first_stage.rankings == {"q": ["z", "a"], "none": []}
    assert first_stage.empty == 1
    assert first_stage.candidates(1) == {"q": ["z"]}


def test_how_deep_a_ranking_is_tells_whether_more_could_be_reranked(tmp_path):
    documents = {name: Document(name, "cat") for name in "abc"}
    collection = Collection("c", documents, {"q": "cats", "none": "unicorn"}, {"q": {"a": 1}})
    depths = [bm25_first_stage(collection, ["none", "q"], depth).deepest for depth in (1, 2, 3, 4)]
    assert depths == [2, 3, 3, 3]
    write_run(tmp_path / "run", {"q": ["a", "b"]}, "t")
    assert run_first_stage(tmp_path / "run", collection, ["q"]).deepest == 2


def test_a_query_that_is_a_document_is_dropped_from_its_own_ranking(tmp_path):
    collection = collection_with_a_query_in_it()
    first_stage = bm25_first_stage(collection, ["a1"], depth=1)
    assert first_stage.rankings == {"a1": ["a2"]}  # still one deep
    assert first_stage.own_documents == 1
    write_run(tmp_path / "run", {"a1": ["a1", "a3", "a2"]}, "t")
    assert run_first_stage(tmp_path / "run", collection, ["a1"]).rankings == {"a1": ["a3", "a2"]}
    assert drop_queries_themselves(collection, {"a1": ["a1", "a2"]}) == {"a1": ["a2"]}


@pytest.mark.parametrize(
    "collection",
    [
        collection_with_a_query_in_it(text="a text on taxes that merely has the query's number"),
        collection_with_a_query_in_it(query_id="other"),
        dataclasses.replace(collection_with_a_query_in_it(), qrels={"a1": {"a1": 1}}),
    ],
)
def test_an_id_alone_drops_nothing(collection):
    query = next(iter(collection.queries))
    first_stage = bm25_first_stage(collection, [query])
    assert "a1" in first_stage.rankings[query]
    assert first_stage.own_documents == 0


@pytest.mark.parametrize(
    ("query", "title", "text", "expected"),
    [
        ("heat transfer", "", "heat transfer at a wall, and what else is said of it here", False),
        ("heat transfer", "Heat transfer", "what is said of it in a long text on walls", True),
        ("heat transfer at a wall", "", "Heat transfer at the wall", False),  # 4 of 5 words
        ("how is heat transferred?", "", "How is heat transferred?", True),
        ("???", "", "any text", False),
    ],
)
def test_a_numbered_document_is_the_query_where_each_says_what_the_other_does(query, title, text, expected):
    assert is_the_query("7", query, title, text) == expected


def test_a_run_keeps_its_depth_and_its_gaps(tmp_path):
    collection = small_collection()
    deep = [f"d{number}" for number in range(30)]
    write_run(tmp_path / "run", {"q1": deep[::-1]}, "t")
    first_stage = make_first_stage(str(tmp_path / "run"), collection, ["q0", "q1"], top_k=3)
    assert first_stage.rankings == {"q0": [], "q1": deep[::-1]}
    assert first_stage.candidates(3) == {"q1": ["d29", "d28", "d27"]}
    with pytest.raises(ValueError, match="ranks none of the 1 judged queries"):
        run_first_stage(tmp_path / "run", collection, ["q2"])


def test_ids_that_a_run_file_cannot_hold_are_refused_before_anything_is_scored():
    documents = {name: Document(name, "cat") for name in ("a", "b c")}
    with pytest.raises(ValueError, match="'b c' holds white space"):
        bm25_first_stage(Collection("c", documents, {"q": "cats"}, {"q": {"a": 1}}), ["q"])


def test_bm25_is_as_deep_as_recall_and_top_k_need():
    """All 150 documents hold the query's word, so it is the depth alone that ends a ranking."""
    documents = {f"d{n}": Document(f"d{n}", "cat " + "filler " * (n % 7)) for n in range(150)}
    collection = Collection("c", documents, {"q": "cats"}, {"q": {"d0": 1}})
    shallow, deep = (make_first_stage("bm25", collection, ["q"], top_k) for top_k in (5, 120))
    assert f"recall@{LEAST_DEPTH}" in METRICS
    assert LEAST_DEPTH == len(shallow.rankings["q"]) == 100
    assert len(deep.rankings["q"]) == len(deep.candidates(120)["q"]) == 120
    assert list(shallow.rankings["q"]) == list(deep.rankings["q"])[:100]


def test_the_fingerprint_sees_order_and_queries():
    prints = {
        FirstStage("x", rankings).fingerprint()
        for rankings in ({"q": ["a", "b"]}, {"q": ["b", "a"]}, {"p": ["a", "b"]}, {"q": ["a"], "p": ["b"]})
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("folder", "splits", "ndcg", "recall"),
    [
        pytest.param("scifact", ("train", "dev"), 0.694, 0.926, marks=pytest.mark.slow),
        ("cranfield", ("train", "test"), 0.343, 0.722),
    ],
)
def test_bm25_of_real_collections(folder, splits, ndcg, recall):
    if not (REAL_DATA / folder).is_dir():
        pytest.skip(f"{folder} is not here; PRORANK_DATA may name its parent")
    parts = [load_collection(str(REAL_DATA / folder), split) for split in splits]
    collection = dataclasses.replace(parts[0], qrels=parts[0].qrels | parts[1].qrels)
    first_stage = bm25_first_stage(collection, counted_queries(collection))
    values = means(measure("bm25", first_stage.rankings, collection).metrics)
    assert values["ndcg@10"] == pytest.approx(ndcg, abs=5e-4)
    assert values["recall@100"] == pytest.approx(recall, abs=5e-4)
    assert first_stage.own_documents == 0  # Cranfield numbers queries and documents alike
