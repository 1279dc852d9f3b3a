"""Fuses a reranker's scores of a query's candidates with the first stage's.

Both systems score the very same candidates, so no document is missing on a side. Fusing is done here and
not by ranx, whose fusion functions sort with an unstable order of equal scores and compile for half a
minute; the tests compare with them where no scores are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prorank_jax.evaluation.score_log import QueryScores

WEIGHTED, RRF = "weighted", "rrf"
RRF_CONSTANT = 60  # Cormack, Clarke and Büttcher's


@dataclass(frozen=True)
class Fusion:
    """How the scores of two systems become one order.

    Attributes:
        method: `weighted` or `rrf`.
        weight: the reranker's share, from 0 to 1; None for `rrf`.
        tuned_on: what the weight was chosen on, as JSON values; None where it was given.
    """

    method: str
    weight: float | None = None
    tuned_on: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """`weighted 0.65`, or `rrf`."""
        return self.method if self.weight is None else f"{self.method} {self.weight:g}"


def min_max(scores: Sequence[float]) -> np.ndarray:
    """Scores [n] moved and stretched to 0..1, float64; all 0 where they are equal and so say nothing."""
    values = np.asarray(scores, np.float64)
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    return (values - values.min()) / (values.max() - values.min())


def weighted_scores(first: Sequence[float], model: Sequence[float], weight: float) -> np.ndarray:
    """weight · model + (1 − weight) · first over min-max normalised scores: float64 [n].

    The convex combination of Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval"
    (arXiv 2210.11934, section 4). They find that it ranks better than RRF, that the choice among
    normalisations hardly matters, and that few queries suffice to tune the weight. Min-max over a query's
    candidates needs no bounds of the scores, which BM25 and logits do not have, and makes the weight a
    share: both sides range over exactly 0 to 1, whereas z-scores of one outlier outweigh the other side.
    """
    return weight * min_max(model) + (1 - weight) * min_max(first)


def reciprocal_rank_scores(model: Sequence[float]) -> np.ndarray:
    """1 / (60 + rank) summed over both systems: float64 [n].

    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods" (SIGIR 2009). Ranks count from 1.

    Args:
        model: the reranker's scores of the candidates, in the first stage's order; equal ones keep it.
    """
    places = np.arange(1, len(model) + 1)
    ranks = np.empty(len(model), np.int64)
    ranks[np.argsort(-np.asarray(model, np.float64), kind="stable")] = places
    return 1 / (RRF_CONSTANT + places) + 1 / (RRF_CONSTANT + ranks)


def fuse(
    ranking: Sequence[str],
    first_scores: Mapping[str, float],
    scored: QueryScores | None,
    fusion: Fusion,
) -> list[str]:
    """The candidates by their fused score, then the rest as it was; equal ones keep the first stage's order.

    Args:
        ranking: of the first stage, best first; its head are the candidates.
        first_scores: document id → score of the first stage; not read for `rrf`.
        scored: the reranker's scores of the candidates; None: there are none.
        fusion: how.
    """
    if scored is None:
        return list(ranking)
    if fusion.weight is None:
        fused = reciprocal_rank_scores(scored.scores)
    else:
        first = [first_scores[document] for document in scored.documents]
        fused = weighted_scores(first, scored.scores, fusion.weight)
    best = [scored.documents[position] for position in np.argsort(-fused, kind="stable")]
    return best + list(ranking[len(best) :])
