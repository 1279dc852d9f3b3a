"""The weight that is chosen on other queries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.collection import Collection
from prorank_jax.evaluation.first_stage import FirstStage
from prorank_jax.evaluation.fusion_tuning import GRID, middle_of_best, tune_weight, unmeasured_queries
from prorank_jax.evaluation.score_log import QueryScores
from prorank_jax.types import Document

DOCUMENTS = ("good", "bad", "worse")


def tuned(first: tuple[float, ...], model: tuple[float, ...]):
    """Tunes on one query whose only relevant document is `good`; scores are those of DOCUMENTS."""
    collection = Collection(
        "c", {name: Document(name, name) for name in DOCUMENTS}, {"q": "query"}, {"q": {"good": 1}}
    )
    scores = dict(sorted(zip(DOCUMENTS, first, strict=True), key=lambda item: -item[1]))
    by_name = dict(zip(DOCUMENTS, model, strict=True))
    stage = FirstStage("bm25", {"q": list(scores)}, scores={"q": scores})
    scored = {"q": QueryScores(tuple(scores), tuple(by_name[name] for name in scores), 0.0)}
    return tune_weight("train", collection, stage, scored)


def test_the_side_that_is_right_gets_the_weight():
    # `good` is first from a weight of 1/2 on, or up to it, where it stands first by the first stage.
    assert tuned((0.0, 1.0, 0.5), (1.0, 0.0, 0.0)).weight == 0.75
    assert tuned((1.0, 0.0, 0.0), (0.0, 1.0, 0.5)).weight == 0.25
    fusion = tuned((1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    assert fusion.weight == 0.5  # every weight is perfect
    assert fusion.tuned_on["queries"] == 1
    assert fusion.tuned_on["grid"] == [[weight, 1.0] for weight in GRID]


@pytest.mark.parametrize(
    ("curve", "weight"),
    [
        ({0.0: 0.1, 0.5: 0.3, 1.0: 0.2}, 0.5),
        ({0.0: 0.3, 0.5: 0.3, 1.0: 0.3}, 0.5),
        ({0.5: 0.1, 0.6: 0.3, 0.7: 0.3, 0.8: 0.3}, 0.7),
        ({0.7: 0.3, 0.8: 0.3, 0.9: 0.1}, 0.7),
        ({0.1: 0.3, 0.2: 0.3, 0.9: 0.1}, 0.2),
        ({0.4: 0.3, 0.5: 0.3 + 1e-15, 0.6: 0.3}, 0.5),
    ],
)
def test_ties_go_to_the_middle(curve, weight):
    assert middle_of_best(curve) == weight


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=len(GRID), max_size=len(GRID)))
def test_the_choice_is_always_among_the_best(values):
    curve = dict(zip(GRID, values, strict=True))
    assert curve[middle_of_best(curve)] == max(values)


def test_measured_queries_are_left_out_however_they_are_written():
    collection = Collection("c", {}, {"a": "What  is BM25?", "b": "who wrote it"}, {})
    assert unmeasured_queries(collection, ["b", "a"], ["what is bm25? "]) == ["b"]
    assert unmeasured_queries(collection, ["b", "a"], []) == ["b", "a"]


def test_means_that_differ_by_rounding_are_equally_good():
    assert middle_of_best({0.0: 0.1 + 0.2, 0.5: 0.3, 1.0: 0.3}) == 0.5
