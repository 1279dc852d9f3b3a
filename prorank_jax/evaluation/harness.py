"""Evaluates rankings: a first stage, what a model makes of it, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prorank_jax.evaluation.first_stage import FirstStage
from prorank_jax.evaluation.metrics import MAIN_METRIC, QueryMetrics, means, query_metrics
from prorank_jax.evaluation.score_log import QueryScores, ScoreLog
from prorank_jax.evaluation.scoring import CHUNK_PAIRS, ScoreFn, rerank, score_candidates
from prorank_jax.evaluation.significance import Comparison, as_json, compare

if TYPE_CHECKING:  # importing a collection imports jax, which this package does without
    from prorank_jax.collection import Collection

DEFAULT_TOP_K = 100


@dataclass(frozen=True)
class System:
    """The rankings of one system and what they are worth.

    Attributes:
        name: of the system.
        rankings: query id → document ids, best first.
        metrics: metric → query id → value.
    """

    name: str
    rankings: Mapping[str, Sequence[str]]
    metrics: QueryMetrics

    @property
    def main(self) -> dict[str, float]:
        """query id → nDCG@10."""
        return self.metrics[MAIN_METRIC]


@dataclass(frozen=True)
class Evaluation:
    """A model on one dataset.

    Attributes:
        first_stage: what it was given.
        reranked: what it made of it.
        gain: reranked against first stage in nDCG@10.
        scores: query id → raw scores of the candidates; queries without candidates are absent.
        compared: another system, if one was asked for.
        gain_over_compared: reranked against that one in nDCG@10.
    """

    first_stage: System
    reranked: System
    gain: Comparison
    scores: Mapping[str, QueryScores]
    compared: System | None = None
    gain_over_compared: Comparison | None = None

    @property
    def pairs(self) -> int:
        """Pairs that the model scored."""
        return sum(len(scored.documents) for scored in self.scores.values())

    @property
    def pairs_per_second(self) -> float | None:
        """Over all the time that scoring took, compilation included; None when nothing was scored."""
        seconds = sum(scored.seconds for scored in self.scores.values())
        return self.pairs / seconds if seconds > 0 else None


def measure(name: str, rankings: Mapping[str, Sequence[str]], collection: Collection) -> System:
    """Measures given rankings of queries that the collection judges."""
    return System(name, rankings, query_metrics(collection.qrels, rankings))


def evaluate_collection(
    score_fn: ScoreFn,
    collection: Collection,
    first_stage: FirstStage,
    *,
    top_k: int = DEFAULT_TOP_K,
    compared: tuple[str, Mapping[str, Sequence[str]]] | None = None,
    log: ScoreLog | None = None,
    chunk_pairs: int = CHUNK_PAIRS,
    on_scored: Callable[[int], None] | None = None,
    on_resumed: Callable[[int], None] | None = None,
) -> Evaluation:
    """Reranks the best `top_k` of each query and measures both rankings.

    What the first stage ranks below `top_k` keeps its order behind the reranked documents, so that
    Recall@100 can be compared. A first stage may serve any number of models.

    Args:
        score_fn: the model.
        collection: texts and judgements.
        first_stage: of the queries to measure on.
        top_k: documents that the model sees of each query.
        compared: name and rankings of another system; queries that it lacks score 0.
        log, chunk_pairs, on_scored, on_resumed: see `score_candidates`.

    Raises:
        ValueError: the model gave no finite score for each pair, or ranx is missing.
    """
    scores = score_candidates(
        score_fn,
        collection,
        first_stage.candidates(top_k),
        log=log,
        chunk_pairs=chunk_pairs,
        on_scored=on_scored,
        on_resumed=on_resumed,
    )
    before = measure(first_stage.name, first_stage.rankings, collection)
    rankings = {query: rerank(ranking, scores.get(query)) for query, ranking in first_stage.rankings.items()}
    after = measure("reranked", rankings, collection)
    other = None
    if compared is not None:
        name, others = compared
        other = measure(name, {query: others.get(query, []) for query in rankings}, collection)
    return Evaluation(
        first_stage=before,
        reranked=after,
        gain=compare(after.main, before.main),
        scores=scores,
        compared=other,
        gain_over_compared=compare(after.main, other.main) if other else None,
    )


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """The entry of a dataset in metrics.json."""
    speed = evaluation.pairs_per_second
    entry: dict[str, Any] = {
        "first_stage": means(evaluation.first_stage.metrics),
        "reranked": means(evaluation.reranked.metrics),
        **as_json(evaluation.gain),
        "queries": len(evaluation.reranked.rankings),
        "pairs": evaluation.pairs,
        "pairs_per_second": None if speed is None else round(speed, 2),
    }
    if evaluation.compared and evaluation.gain_over_compared:
        entry["compared"] = {
            "run": evaluation.compared.name,
            "metrics": means(evaluation.compared.metrics),
            **as_json(evaluation.gain_over_compared),
        }
    return entry


def query_records(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One record for each query: its id and each metric of both systems."""
    return [
        {
            "query": query,
            **{
                part: {metric: values[query] for metric, values in system.metrics.items()}
                for part, system in (
                    ("first_stage", evaluation.first_stage),
                    ("reranked", evaluation.reranked),
                )
            },
        }
        for query in evaluation.reranked.rankings
    ]


def average(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plain mean over datasets, as BEIR averages: metrics of both stages, and delta."""
    return {
        **{
            part: {
                metric: sum(entry[part][metric] for entry in entries) / len(entries)
                for metric in entries[0][part]
            }
            for part in ("first_stage", "reranked")
        },
        "delta": sum(entry["delta"] for entry in entries) / len(entries),
    }
