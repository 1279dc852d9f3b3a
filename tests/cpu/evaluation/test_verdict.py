"""What is said of an evaluation: each sentence where it belongs, and not just beside it."""

from __future__ import annotations

import numpy as np
import pytest

from prorank_jax.evaluation.significance import randomization_p_value
from prorank_jax.evaluation.verdict import FEW_QUERIES, LITTLE_ROOM, LOW_RECALL, SIGNIFICANT, verdict

HEALTHY = {
    "first_stage": {"ndcg@10": 0.5},
    "reranked": {"ndcg@10": 0.6},
    "delta": 0.1,
    "p_value": 0.001,
    "interval": [0.05, 0.15],
    "ceiling": {"ndcg@10": 0.9, "recall": 0.95, "queries_without": 0},
    "queries": 300,
    "pairs": 3000,
    "first_stage_name": "bm25",
    "sampled_from": None,
}


def said(**changes):
    return verdict(HEALTHY | changes, 100)


def held(**changes):
    return {"ceiling": HEALTHY["ceiling"] | changes}


def test_a_gain_has_its_facts_and_nothing_is_wrong():
    assert said() == [
        "A significant gain over BM25 (+0.100 nDCG@10, 95% interval +0.050 to +0.150, p 0.001, 300 queries).",
        "A perfect reranker of these candidates would reach 0.900 (BM25 0.500, the model 0.600): the model "
        "goes 25% of that way.",
    ]
    assert "over the first stage" in said(first_stage_name="own.trec")[0]


@pytest.mark.parametrize(
    ("p_value", "delta", "words"),
    [
        (0.049, 0.1, "A significant gain"),
        (0.05, 0.1, "No significant difference"),
        (0.05, -0.1, "No significant difference"),
        (0.049, -0.1, "Significantly worse"),
    ],
)
def test_the_first_sentence_follows_the_test(p_value, delta, words):
    assert said(p_value=p_value, delta=delta)[0].startswith(words)


def test_what_to_try_depends_on_what_was_done():
    assert "--queries" not in said(p_value=0.5)[0]
    assert "--queries" in said(p_value=0.5, sampled_from=900)[0]
    assert "--fusion" in said(p_value=0.5)[0]
    assert "--fusion" not in said(p_value=0.5, fusion=fusion())[0]


@pytest.mark.parametrize(
    ("best", "expected"), [(0.5 + LITTLE_ROOM / 2, True), (0.5 + 2 * LITTLE_ROOM, False)]
)
def test_little_room_to_gain(best, expected):
    assert ("little left to gain" in said(**held(**{"ndcg@10": best}))[1]) == expected


def test_a_loss_is_no_part_of_the_way():
    assert said(reranked={"ndcg@10": 0.4})[1].endswith("the model 0.400).")


@pytest.mark.parametrize(("recall", "expected"), [(LOW_RECALL - 0.01, 3), (LOW_RECALL, 2)])
def test_relevant_documents_that_no_reranker_sees(recall, expected):
    sentences = said(**held(recall=recall, queries_without=7))
    assert len(sentences) == expected
    if expected == 3:
        assert "89% are among the best 100" in sentences[2]
        assert "(none for 7 of the queries)" in sentences[2]
        assert "--top_k" in sentences[2]


@pytest.mark.parametrize(("queries", "expected"), [(FEW_QUERIES - 1, 3), (FEW_QUERIES, 2)])
def test_few_queries(queries, expected):
    sentences = said(queries=queries)
    assert len(sentences) == expected
    if expected == 3:
        assert "about 0.050 to show" in sentences[2]


@pytest.mark.parametrize(("queries", "too_few"), [(1, True), (5, True), (6, False)])
def test_fewer_queries_than_any_p_value_needs(queries, too_few):
    last = said(queries=queries)[2]
    words = f"{queries} queries are too few for any difference to be significant; measure on more."
    assert (last == words) == too_few
    assert (randomization_p_value(np.ones(queries)) >= SIGNIFICANT) == too_few


def test_no_deeper_ranking_is_asked_for_than_there_is():
    few = {"recall": 0.5, "queries_without": 0, "ndcg@10": 0.51}
    for deepest, says in ((100, False), (101, True)):
        ceiling, recall = said(**held(deepest=deepest, **few))[1:3]
        assert ("raise --top_k" in ceiling) == ("raise --top_k" in recall) == says
        assert "take a better --first_stage" in recall


def test_another_run_has_its_facts():
    other = {"run": "runs/other.trec", "delta": -0.02, "interval": [-0.05, 0.01], "p_value": 0.2}
    assert said(compared=other)[-1] == (
        "Against runs/other.trec: -0.020 nDCG@10, 95% interval -0.050 to +0.010, p 0.200."
    )


def test_queries_that_another_run_lacks_are_told_with_what_they_count_as():
    other = {"run": "a.trec", "delta": 0.7, "interval": [0.6, 0.8], "p_value": 0.01, "queries_lacking": 54}
    assert said(queries=60, compared=other)[-1].endswith(
        "p 0.010. It lacks 54 of the 60 queries, which count as 0 for it."
    )
    assert "lacks" not in said(compared=other | {"queries_lacking": 0})[-1]


def fusion(delta=0.02, p_value=0.01, tuned_on=None):
    over = {"delta": delta, "p_value": p_value, "interval": [0.0, 0.04]}
    return {
        "label": "weighted 0.6",
        "tuned_on": tuned_on,
        "metrics": {"ndcg@10": 0.62},
        "over_reranked": over,
        "over_first_stage": over | {"delta": 0.12, "p_value": 0.0},
    }


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (fusion(), "(weighted 0.6): 0.620, a significant gain over the model alone (+0.020"),
        (fusion(delta=-0.02), "worse than the model alone"),
        (fusion(p_value=0.2), "no significant difference to the model alone"),
        (fusion(tuned_on={"queries": 50, "dataset": "demo:train"}), "tuned on 50 queries of demo:train"),
    ],
)
def test_a_fusion_is_measured_against_the_model(made, words):
    assert words in said(fusion=made)[-1]
    assert "Against BM25: +0.120 nDCG@10, 95% interval +0.000 to +0.040, p <0.001" in said(fusion=made)[-1]


def test_nothing_to_rerank_and_an_entry_of_an_older_version():
    assert len(said(pairs=0)) == 1
    old = {name: value for name, value in HEALTHY.items() if name not in ("ceiling", "first_stage_name")}
    assert len(verdict(old, 100)) == 1


def test_relevant_documents_that_are_absent_are_told_of():
    assert "3 relevant documents are not in the collection: they count as not found." in said(
        absent_documents=3
    )
    assert said(absent_documents=0) == said()


def test_a_model_measured_or_tuned_on_its_training_split_is_told_so():
    sentences = said(trained_on=True)
    assert sentences[0].startswith("The model was trained on this very split")
    assert sentences[1:] == said(trained_on=False) == said()
    tuned = {"queries": 50, "dataset": "demo:train", "trained_on": True}
    assert "on which the model was trained" in said(fusion=fusion(tuned_on=tuned))[-1]
