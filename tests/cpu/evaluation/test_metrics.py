"""Metrics against pytrec_eval, which wraps trec_eval, on random rankings with ties and odd grades."""

from __future__ import annotations

import random

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.evaluation import metrics
from prorank_jax.evaluation.metrics import METRICS, means, query_metrics, require_ranx
from prorank_jax.trec import read_run, write_run

TREC_NAMES = {
    "ndcg@10": "ndcg_cut_10",
    "map": "map",
    "recall@100": "recall_100",
    "precision@10": "P_10",
}


def trec_metrics(qrels, scores):
    """The same metrics by trec_eval; its reciprocal rank has no cutoff, so that run is cut before.

    Negative grades, on which it crashes, become 0: both mean not relevant.
    """
    qrels = {
        query: {document: max(grade, 0) for document, grade in grades.items()}
        for query, grades in qrels.items()
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "map", "recall", "P"}).evaluate(scores)
    values = {ours: {query: found[query][theirs] for query in found} for ours, theirs in TREC_NAMES.items()}
    top = {
        query: dict(sorted(documents.items(), key=lambda item: -item[1])[:10])
        for query, documents in scores.items()
    }
    ranks = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(top)
    return values | {"mrr@10": {query: ranks[query]["recip_rank"] for query in ranks}}


def decreasing(rankings):
    return {
        query: {document: float(len(documents) - place) for place, document in enumerate(documents)}
        for query, documents in rankings.items()
    }


def random_case(seed, grades=(-2, -1, 0, 0, 0, 1, 1, 2, 3)):
    """Judgements and rankings; some documents unjudged, some relevant ones not ranked, some tied."""
    rng = random.Random(seed)
    documents = [f"d{number}" for number in range(160)]
    qrels, rankings = {}, {}
    for number in range(rng.randint(1, 14)):
        judged = rng.sample(documents, rng.randint(1, 40))
        qrels[f"q{number}"] = {document: rng.choice(grades) for document in judged}
        ranked = rng.sample(documents, rng.randint(1, 130))
        tied = {document: rng.randint(0, 5) for document in ranked}
        rankings[f"q{number}"] = sorted(ranked, key=lambda document: -tied[document])
    return qrels, rankings


def assert_agree(ours, theirs):
    assert set(ours) == set(theirs) == set(METRICS)
    for metric, values in ours.items():
        assert values == pytest.approx(theirs[metric], abs=1e-6), metric


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_every_metric_agrees_with_trec_eval(seed):
    qrels, rankings = random_case(seed)
    assert_agree(query_metrics(qrels, rankings), trec_metrics(qrels, decreasing(rankings)))


@pytest.mark.parametrize("seed", range(5))
def test_both_agree_on_a_run_file_that_was_written(seed, tmp_path):
    qrels, rankings = random_case(seed)
    write_run(tmp_path / "run.trec", rankings, "test")
    with (tmp_path / "run.trec").open() as file:
        scores = pytrec_eval.parse_run(file)
    assert_agree(query_metrics(qrels, read_run(tmp_path / "run.trec")), trec_metrics(qrels, scores))


def test_queries_without_a_ranking_score_zero_and_count():
    values = query_metrics({"a": {"x": 1}, "b": {"x": 2}}, {"a": ["x"], "b": []})
    assert values["ndcg@10"] == {"a": 1.0, "b": 0.0}
    assert means(values) == dict.fromkeys(METRICS, 0.5) | {"precision@10": 0.05}
    assert query_metrics({"a": {"x": 1}}, {"a": []}) == {metric: {"a": 0.0} for metric in METRICS}


def test_the_gain_of_ndcg_is_the_grade():
    values = query_metrics({"a": {"x": 3, "y": 1}}, {"a": ["y", "x"]})
    discount = 0.6309297535714575  # 1 / log2(3)
    assert values["ndcg@10"]["a"] == pytest.approx((1 + 3 * discount) / (3 + discount))


def test_a_missing_ranx_names_the_extra(monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"run pip install -e '.\[eval\]' in the checkout"):
        require_ranx()
