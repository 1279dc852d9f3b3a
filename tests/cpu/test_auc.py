"""AUCs against every pair of documents, and their spread by chance against every order of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.auc import area_under_roc, aucs_of_queries, deviation_at_chance

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)  # few values: many ties
DOCUMENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3), st.integers(0, 1)), max_size=30)


def share_of_pairs(relevant: list[float], irrelevant: list[float]) -> float:
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in relevant for b in irrelevant]))


@given(SCORES, SCORES)
def test_auc_counts_every_pair_and_half_of_the_ties(relevant, irrelevant):
    scores = np.array(relevant + irrelevant)
    labels = np.array([1] * len(relevant) + [0] * len(irrelevant))
    assert area_under_roc(scores, labels) == pytest.approx(share_of_pairs(relevant, irrelevant))


def test_auc_of_a_score_that_is_no_number_is_none():
    assert np.isnan(area_under_roc(np.array([0.5, np.nan, 1.0]), np.array([0, 1, 1])))


@pytest.mark.parametrize("label", [0, 1])
def test_auc_needs_both_labels(label):
    with pytest.raises(ValueError, match="AUC needs both"):
        area_under_roc(np.arange(3.0), np.full(3, label))


def columns(documents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    queries, scores, labels = np.array(documents, int).reshape(-1, 3).T
    return scores.astype(float), labels, queries


@given(DOCUMENTS)
def test_the_auc_of_each_query_is_of_its_own_pairs_and_only_where_there_are_any(documents):
    expected = []
    for query in range(5):
        own = [[float(s) for q, s, label in documents if (q, label) == (query, kind)] for kind in (1, 0)]
        expected += [share_of_pairs(*own)] if all(own) else []
    assert aucs_of_queries(*columns(documents)) == pytest.approx(expected)


@given(DOCUMENTS, st.lists(st.integers(-9, 9), min_size=5, max_size=5))
def test_what_is_added_to_a_querys_scores_changes_its_auc_in_nothing(documents, levels):
    scores, labels, queries = columns(documents)
    shifted = scores + np.array(levels)[queries]
    assert aucs_of_queries(shifted, labels, queries) == aucs_of_queries(scores, labels, queries)


def test_a_score_that_is_no_number_spoils_its_own_querys_auc_only():
    scores, labels = np.array([1.0, np.nan, 2.0, 1.0]), np.array([1, 0, 1, 0])
    np.testing.assert_array_equal(aucs_of_queries(scores, labels, np.array([7, 7, 2, 2])), [1.0, np.nan])


@pytest.mark.parametrize(("relevant", "irrelevant"), [(1, 1), (1, 4), (3, 3), (4, 2)])
def test_the_deviation_at_chance_is_that_over_all_orders(relevant, irrelevant):
    total = relevant + irrelevant
    orders = [
        area_under_roc(np.arange(float(total)), np.isin(np.arange(total), chosen).astype(int))
        for chosen in itertools.combinations(range(total), relevant)
    ]
    assert np.std(orders) == pytest.approx(deviation_at_chance(relevant, irrelevant))
    assert np.mean(orders) == pytest.approx(0.5)
