"""Evaluates rankings: a first stage, what a model makes of it, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prorank_jax.evaluation.ceiling import Reach, perfect_ranking, reach
from prorank_jax.evaluation.first_stage import FirstStage
from prorank_jax.evaluation.fusion import Fusion, fuse
from prorank_jax.evaluation.metrics import MAIN_METRIC, QueryMetrics, query_metrics
from prorank_jax.evaluation.score_log import QueryScores, ScoreLog, scored_by
from prorank_jax.evaluation.scoring import CHUNK_PAIRS, ScoreChunks, rerank, score_candidates
from prorank_jax.evaluation.significance import Comparison, compare

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
class Fused:
    """The reranker together with the first stage.

    Attributes:
        system: its rankings and their worth.
        fusion: how it was made.
        gain: against the first stage in nDCG@10.
        gain_over_reranked: against the reranker alone in nDCG@10.
    """

    system: System
    fusion: Fusion
    gain: Comparison
    gain_over_reranked: Comparison


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
        compared_lacks: queries that the other system does not rank at all, where it scores 0.
        ceiling: a perfect reranker of the same candidates.
        reach: what the candidates hold of the relevant documents.
        fused: reranked together with the first stage, if it was asked for.
    """

    first_stage: System
    reranked: System
    gain: Comparison
    scores: Mapping[str, QueryScores]
    ceiling: System
    reach: Reach
    compared: System | None = None
    gain_over_compared: Comparison | None = None
    compared_lacks: int = 0
    fused: Fused | None = None

    @property
    def pairs(self) -> int:
        """Pairs that the model scored."""
        return sum(len(scored.documents) for scored in self.scores.values())

    @property
    def scored_by(self) -> dict[str, int]:
        """Code and devices that gave the scores ("": not known) → queries."""
        return scored_by(self.scores)

    @property
    def pairs_per_second(self) -> float | None:
        """Over all the time that scoring took, compilation included.

        None when nothing was scored, or by different code or devices.
        """
        if len(self.scored_by) > 1:
            return None
        seconds = sum(scored.seconds for scored in self.scores.values())
        return self.pairs / seconds if seconds > 0 else None


def measure(name: str, rankings: Mapping[str, Sequence[str]], collection: Collection) -> System:
    """Measures given rankings of queries that the collection judges."""
    return System(name, rankings, query_metrics(collection.qrels, rankings))


def evaluate_collection(
    score_chunks: ScoreChunks,
    collection: Collection,
    first_stage: FirstStage,
    *,
    top_k: int = DEFAULT_TOP_K,
    compared: tuple[str, Mapping[str, Sequence[str]]] | None = None,
    fusion: Fusion | None = None,
    log: ScoreLog | None = None,
    chunk_pairs: int = CHUNK_PAIRS,
    on_scored: Callable[[int], None] | None = None,
    on_resumed: Callable[[int], None] | None = None,
) -> Evaluation:
    """Reranks the best `top_k` of each query and measures both rankings.

    What the first stage ranks below `top_k` keeps its order behind the reranked documents, so that
    Recall@100 can be compared. A first stage may serve any number of models.

    Args:
        score_chunks: the model.
        collection: texts and judgements.
        first_stage: of the queries to measure on.
        top_k: documents that the model sees of each query.
        compared: name and rankings of another system; queries that it lacks score 0.
        fusion: also fuses the scores with the first stage's; changes nothing of the rest.
        log, chunk_pairs, on_scored, on_resumed: see `score_candidates`.

    Raises:
        ValueError: the model gave no finite score for each pair, or ranx is missing.
    """
    scores = score_candidates(
        score_chunks,
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
    other, lacking = None, 0
    if compared is not None:
        name, others = compared
        lacking = len(rankings.keys() - others.keys())
        other = measure(name, {query: others.get(query, []) for query in rankings}, collection)
    perfect = {
        query: perfect_ranking(ranking, collection.qrels[query], top_k)
        for query, ranking in first_stage.rankings.items()
    }
    return Evaluation(
        first_stage=before,
        reranked=after,
        gain=compare(after.main, before.main),
        scores=scores,
        ceiling=measure("ceiling", perfect, collection),
        reach=reach(first_stage.rankings, collection.qrels, top_k, first_stage.deepest),
        compared=other,
        gain_over_compared=compare(after.main, other.main) if other else None,
        compared_lacks=lacking,
        fused=None if fusion is None else _fuse(fusion, collection, first_stage, scores, before, after),
    )


def _fuse(
    fusion: Fusion,
    collection: Collection,
    first_stage: FirstStage,
    scores: Mapping[str, QueryScores],
    before: System,
    after: System,
) -> Fused:
    rankings = {
        query: fuse(ranking, first_stage.scores.get(query, {}), scores.get(query), fusion)
        for query, ranking in first_stage.rankings.items()
    }
    system = measure("fused", rankings, collection)
    return Fused(system, fusion, compare(system.main, before.main), compare(system.main, after.main))
