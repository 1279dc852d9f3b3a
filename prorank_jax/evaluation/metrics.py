"""Ranking metrics for each query, computed by ranx and named as ranx names them."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prorank_jax.messages import install_extra

MAIN_METRIC = "ndcg@10"
METRICS = (MAIN_METRIC, "map", "mrr@10", "recall@100", "precision@10")

# metric → query id → value between 0 and 1
QueryMetrics = dict[str, dict[str, float]]


def require_ranx() -> None:
    """Refuses to begin an evaluation that could not be finished.

    Raises:
        ValueError: ranx is not installed.
    """
    if importlib.util.find_spec("ranx") is None:
        raise ValueError(f"ranx, which computes the metrics, is missing; {install_extra('eval')}")


def _import_ranx() -> Any:
    # Imported late: it takes seconds, and compiles for ten more when it is first used on a machine.
    require_ranx()
    try:
        import ranx
    except RuntimeError as error:
        raise ValueError(
            f"ranx: cannot be imported ({error}); set NUMBA_CACHE_DIR to a folder that can be written to"
        ) from error
    return ranx


def _typed_list(arrays: Iterable[np.ndarray]) -> Any:
    import numba

    return numba.typed.List(list(arrays))


def _number_documents(grades: Mapping[str, int], documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Judgements [n, 2] and ranking [m, 2] as ranx's rows of (document number, grade or score).

    The numbers are given here and the rows are sorted here, so that nothing depends on how ranx hashes
    ids or sorts equal scores.
    """
    judged = sorted(grades, key=lambda document: (-grades[document], document))
    numbers = {document: number for number, document in enumerate(judged)}
    qrels = np.array([[numbers[document], grades[document]] for document in judged], np.float64)
    ranked = [
        [numbers.setdefault(document, len(numbers)), len(documents) - position]
        for position, document in enumerate(documents)
    ]
    return qrels, np.array(ranked, np.float64).reshape(-1, 2)


def query_metrics(
    qrels: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Sequence[str]]
) -> QueryMetrics:
    """Each of `METRICS` for each query that is ranked.

    Documents of grade 1 or higher are relevant; nDCG's gain is the grade itself. Unjudged documents and
    grades below 1 count as not relevant. An empty ranking scores 0.

    Args:
        qrels: query id → document id → grade; each ranked query must have a judgement.
        rankings: query id → distinct document ids, best first.

    Raises:
        ValueError: ranx is missing or cannot be used here.
    """
    if not rankings:
        return {metric: {} for metric in METRICS}
    numbered = [_number_documents(qrels[query], documents) for query, documents in rankings.items()]
    ranx = _import_ranx()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba's, about the types of loop counters
        judgements, ranked = (_typed_list(arrays) for arrays in zip(*numbered, strict=True))
        values = ranx.evaluate(judgements, ranked, list(METRICS), return_mean=False)
    return {metric: dict(zip(rankings, map(float, column), strict=True)) for metric, column in values.items()}


def means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """metric → its mean over the queries."""
    return {metric: float(np.mean(list(column.values()))) for metric, column in values.items()}
