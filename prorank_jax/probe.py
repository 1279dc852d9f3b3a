"""The held-out probe: does the model answer in the format, is it right, does its score rank?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import track

from prorank_jax.process_rows import put_whole_batch
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import is_correct, is_formatted
from prorank_jax.types import Batch, Params

ProbeStep = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class ProbeResult:
    """What the probe saw after `step` updates.

    Attributes:
        format_rate: share of greedy answers that are exactly `0` or `1` and then end.
        accuracy: share of greedy answers that start with the right one of them.
        auc: probability that a relevant document's score is above an irrelevant one's; NaN where a score is.
        relevant_share: share of greedy answers that start with `1`; far from one half: one-sided.
        scores, labels: of each example, for the plots.
    """

    step: int
    examples: int
    format_rate: float
    accuracy: float
    auc: float
    relevant_share: float
    scores: list[float] = field(repr=False)
    labels: list[int] = field(repr=False)

    @property
    def when(self) -> str:
        """`before`, or `after 12 steps`: what a heading says."""
        return f"after {self.step} steps" if self.step else "before"


def to_record(result: ProbeResult) -> dict[str, Any]:
    """The fields of a result in words of JSON: an AUC or a score that is not finite becomes null."""
    scores = [_finite_or_none(score) for score in result.scores]
    return asdict(result) | {"auc": _finite_or_none(result.auc), "scores": scores}


def from_record(record: Mapping[str, Any]) -> ProbeResult:
    """The result of such a record; null is read as NaN."""
    scores = [_nan_for_none(score) for score in record["scores"]]
    return ProbeResult(**{**record, "auc": _nan_for_none(record["auc"]), "scores": scores})


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else value


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


def run_probe(
    probe_step: ProbeStep,
    params: Params,
    batches: Sequence[Batch],
    answers: AnswerTokens,
    mesh: Mesh,
    step: int,
    *,
    show_progress: bool = False,
) -> ProbeResult:
    """Scores and greedily answers the held-out batches; filler rows are left out."""
    scores, completions, labels = [], [], []
    for batch in track(batches, "held-out probe", transient=True, disable=not show_progress):
        batch_scores, batch_completions = jax.device_get(probe_step(params, put_whole_batch(batch, mesh)))
        real = np.asarray(batch.examples) >= 0
        scores.append(batch_scores[real])
        completions.append(batch_completions[real])
        labels.append(np.asarray(batch.labels)[real])
    all_scores, all_labels = np.concatenate(scores), np.concatenate(labels)
    tokens = np.concatenate(completions)  # [n, L]
    return ProbeResult(
        step=step,
        examples=len(all_labels),
        format_rate=float(np.mean(is_formatted(tokens, answers))),
        accuracy=float(np.mean(is_correct(tokens[:, None], all_labels, answers))),
        auc=area_under_roc(all_scores, all_labels),
        relevant_share=float(np.mean(tokens[:, 0] == answers.one)),
        scores=all_scores.astype(float).tolist(),
        labels=all_labels.astype(int).tolist(),
    )
