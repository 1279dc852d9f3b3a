"""Chooses the weight of a fusion on queries that are not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prorank_jax.evaluation.first_stage import FirstStage
from prorank_jax.evaluation.fusion import WEIGHTED, Fusion, fuse
from prorank_jax.evaluation.metrics import MAIN_METRIC, means, query_metrics
from prorank_jax.evaluation.score_log import QueryScores
from prorank_jax.query_texts import plain, plain_texts

if TYPE_CHECKING:  # importing a collection imports jax, which this package does without
    from prorank_jax.collection import Collection

GRID = tuple(step / 20 for step in range(21))
_EQUAL = 1e-12  # means of equal values may differ by the order of their sum


def unmeasured_queries(tuning: Collection, queries: Sequence[str], measured: Iterable[str]) -> list[str]:
    """The queries, in their order, whose text is none of the measured queries' texts.

    Args:
        tuning: has the texts of `queries`.
        measured: texts.
    """
    taken = plain_texts(measured)
    return [query for query in queries if plain(tuning.queries[query]) not in taken]


def middle_of_best(curve: Mapping[float, float]) -> float:
    """The weight of the highest value; among equal ones the middle one, where two are, that nearer to 0.5."""
    best = max(curve.values())
    tied = sorted(weight for weight, value in curve.items() if value >= best - _EQUAL)
    middle = (len(tied) - 1) / 2
    candidates = {tied[int(np.floor(middle))], tied[int(np.ceil(middle))]}
    return min(candidates, key=lambda weight: (abs(weight - 0.5), weight))


def tune_weight(
    name: str, collection: Collection, first_stage: FirstStage, scores: Mapping[str, QueryScores]
) -> Fusion:
    """The weighted fusion with the best mean nDCG@10 over `GRID`, see `middle_of_best` for ties.

    Args:
        name: of the data set, for the record.
        collection: has the judgements.
        first_stage: of the queries to tune on.
        scores: query id → the reranker's scores of its candidates.
    """
    curve = {}
    for weight in GRID:
        fusion = Fusion(WEIGHTED, weight)
        rankings = {
            query: fuse(ranking, first_stage.scores[query], scores.get(query), fusion)
            for query, ranking in first_stage.rankings.items()
        }
        curve[weight] = means(query_metrics(collection.qrels, rankings))[MAIN_METRIC]
    tuned_on = {
        "dataset": name,
        "queries": len(first_stage.rankings),
        "grid": [[weight, round(value, 6)] for weight, value in curve.items()],
    }
    return Fusion(WEIGHTED, middle_of_best(curve), tuned_on)
