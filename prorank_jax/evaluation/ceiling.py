"""How far any reranker could come with the candidates it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Grades = Mapping[str, int]


@dataclass(frozen=True)
class Reach:
    """What the candidates hold of the relevant documents.

    Attributes:
        recall: share of a query's relevant documents that are among its candidates, mean over the queries.
        queries_without: queries with no relevant candidate, which score 0 whatever the reranker does.
        deepest: documents of the longest ranking, of which `top_k` are reranked; one more than were asked
            of a first stage that has more.
    """

    recall: float
    queries_without: int
    deepest: int


def perfect_ranking(ranking: Sequence[str], grades: Grades, top_k: int) -> list[str]:
    """The best `top_k` by grade, then the rest as it was: no order of these candidates has a higher nDCG.

    Unjudged documents and grades below 1 are all alike, as they are to the metrics.
    """
    best = sorted(ranking[:top_k], key=lambda document: -max(grades.get(document, 0), 0))
    return best + list(ranking[top_k:])


def reach(
    rankings: Mapping[str, Sequence[str]], qrels: Mapping[str, Grades], top_k: int, deepest: int
) -> Reach:
    """What the best `top_k` of each ranking hold.

    Args:
        rankings: at least one; each query has a document of grade 1 or higher in `qrels`.
        deepest: see `Reach`.
    """
    shares = []
    for query, ranking in rankings.items():
        relevant = {document for document, grade in qrels[query].items() if grade > 0}
        shares.append(len(relevant & set(ranking[:top_k])) / len(relevant))
    return Reach(sum(shares) / len(shares), sum(share == 0 for share in shares), deepest)
