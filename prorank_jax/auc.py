"""AUC, the area under the ROC curve: over all prompts, of each query, and what chance makes of it."""

from __future__ import annotations

import math

import numpy as np


def area_under_roc(scores: np.ndarray, labels: np.ndarray) -> float:
    """AUC by the Mann-Whitney statistic, ties counting half: scores [n], labels [n] in {0, 1}.

    NaN where a score is.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError(f"labels: {positives} relevant and {negatives} irrelevant; AUC needs both")
    if np.isnan(scores).any():
        return math.nan
    # scipy.stats ranks too, but loading it takes a third of the time in which a run starts.
    _, place, equal = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(equal) - (equal - 1) / 2
    rank_sum = mean_rank[place][labels == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def aucs_of_queries(scores: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> list[float]:
    """The AUC of each query with documents of both labels, in the order of the queries' numbers.

    Their mean is the AUC within queries: the probability that a relevant document scores above an irrelevant
    one of the same query, each query counting once. Group AUC (GAUC, arXiv 1703.02091) is this mean with
    groups weighted by their size. What is added to all scores of a query changes nothing.

    Args:
        scores: [n] float; NaN makes that of its query NaN.
        labels: [n] in {0, 1}.
        queries: [n] the number of each document's query.
    """
    own = (queries == query for query in np.unique(queries))
    return [area_under_roc(scores[of], labels[of]) for of in own if len(np.unique(labels[of])) == 2]


def deviation_at_chance(relevant: int, irrelevant: int) -> float:
    """Standard deviation of the AUC of scores that say nothing: √((m + n + 1) / (12 m n)).

    That of the Mann-Whitney statistic (Mann and Whitney 1947); ties make it smaller.
    """
    return math.sqrt((relevant + irrelevant + 1) / (12 * relevant * irrelevant))
