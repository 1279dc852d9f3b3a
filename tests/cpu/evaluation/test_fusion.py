"""Fused orders: against ranx's fusion, at both ends of the weight, and under changes that mean nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.evaluation.fusion import RRF, WEIGHTED, Fusion, fuse, min_max, reciprocal_rank_scores
from prorank_jax.evaluation.score_log import QueryScores
from prorank_jax.evaluation.scoring import rerank

# Whole numbers: few enough to tie, and moved and stretched by powers of two without rounding.
WHOLE = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=25)
WEIGHTS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def case(pairs, unscored=3):
    """A ranking by the first scores with some documents below the candidates."""
    ordered = sorted(pairs, key=lambda pair: -pair[0])
    documents = tuple(f"d{number}" for number in range(len(ordered)))
    first = {name: float(pair[0]) for name, pair in zip(documents, ordered, strict=True)}
    scored = QueryScores(documents, tuple(float(pair[1]) for pair in ordered), 0.0)
    return [*documents, *(f"rest{number}" for number in range(unscored))], first, scored


@given(WHOLE)
def test_weight_0_is_the_first_stage_and_weight_1_the_reranker(pairs):
    ranking, first, scored = case(pairs)
    assert fuse(ranking, first, scored, Fusion(WEIGHTED, 0.0)) == ranking
    assert fuse(ranking, first, scored, Fusion(WEIGHTED, 1.0)) == rerank(ranking, scored)


@given(WHOLE, WEIGHTS, st.integers(-5, 5), st.integers(-5, 5), st.integers(-64, 64), st.integers(-64, 64))
def test_moving_and_stretching_scores_changes_nothing(pairs, weight, power, other_power, shift, other_shift):
    ranking, first, scored = case(pairs)
    moved = {name: score * 2.0**power + shift for name, score in first.items()}
    stretched = QueryScores(
        scored.documents, tuple(score * 2.0**other_power + other_shift for score in scored.scores), 0.0
    )
    for fusion in (Fusion(WEIGHTED, weight), Fusion(RRF)):
        assert fuse(ranking, moved, stretched, fusion) == fuse(ranking, first, scored, fusion)


@given(WHOLE, WEIGHTS)
def test_only_candidates_move_and_none_is_lost(pairs, weight):
    ranking, first, scored = case(pairs)
    for fusion in (Fusion(WEIGHTED, weight), Fusion(RRF)):
        fused = fuse(ranking, first, scored, fusion)
        assert fused[len(pairs) :] == ranking[len(pairs) :]
        assert sorted(fused) == sorted(ranking)


@given(WHOLE)
def test_a_side_that_says_nothing_leaves_the_other_alone(pairs):
    ranking, first, scored = case(pairs)
    constant = QueryScores(scored.documents, (3.0,) * len(pairs), 0.0)
    assert fuse(ranking, first, constant, Fusion(WEIGHTED, 0.5)) == ranking
    assert fuse(ranking, first, constant, Fusion(RRF)) == ranking
    level = dict.fromkeys(first, 7.0)
    assert fuse(ranking, level, scored, Fusion(WEIGHTED, 0.5)) == rerank(ranking, scored)


def test_without_candidates_there_is_nothing_to_fuse():
    assert fuse([], {}, None, Fusion(RRF)) == []
    assert list(min_max([])) == []


def test_reciprocal_ranks_by_hand():
    # Ranks 1, 2, 3 of the first stage; 2, 3, 1 of the model.
    expected = [1 / 61 + 1 / 62, 1 / 62 + 1 / 63, 1 / 63 + 1 / 61]
    np.testing.assert_allclose(reciprocal_rank_scores([0.0, -5.0, 9.0]), expected, rtol=1e-15)
