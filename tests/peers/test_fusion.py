"""Fused scores are ranx's where none are equal; its first use compiles for half a minute."""

from __future__ import annotations

import random

import pytest

from prorank_jax.evaluation.fusion import WEIGHTED, Fusion, fuse, reciprocal_rank_scores
from tests.cpu.evaluation.test_fusion import case

pytestmark = pytest.mark.peers
ranx = pytest.importorskip("ranx")


def ranx_order(first, scored, **options):
    """ranx's fusion of one query; its runs are of documents and scores."""
    runs = [
        ranx.Run({"q": dict(first)}),
        ranx.Run({"q": dict(zip(scored.documents, scored.scores, strict=True))}),
    ]
    return ranx.fuse(runs, **options)["q"]


@pytest.mark.filterwarnings("ignore")
def test_ranx_gives_the_same_fused_scores_where_nothing_ties():
    rng = random.Random(0)
    for _ in range(8):
        first, second = (rng.sample(range(1000), 20) for _ in range(2))
        _, scores, scored = case(list(zip(first, second, strict=True)))
        theirs = ranx_order(scores, scored, norm=None, method="rrf", params={"k": 60})
        ours = dict(zip(scored.documents, reciprocal_rank_scores(scored.scores), strict=True))
        assert ours == pytest.approx(dict(theirs), abs=1e-12)
        weight = rng.random()
        theirs = ranx_order(
            scores, scored, norm="min-max", method="wsum", params={"weights": [1 - weight, weight]}
        )
        order = fuse(list(scored.documents), scores, scored, Fusion(WEIGHTED, weight))
        assert [theirs[name] for name in order] == pytest.approx(sorted(theirs.values(), reverse=True))
