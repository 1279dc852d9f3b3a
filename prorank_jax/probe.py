"""The held-out probe: does the model answer in the format, is it right, does its score rank?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import track

from prorank_jax.auc import area_under_roc, aucs_of_queries
from prorank_jax.held_out import HeldOut
from prorank_jax.process_rows import put_whole_batch
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import is_correct, is_formatted
from prorank_jax.types import Batch, Params

_OF_FLOATS = ("scores", "query_aucs")

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
        query_aucs: the AUC of each query that has relevant and irrelevant prompts, in a fixed order; see
            `auc.aucs_of_queries`. None in stage 1, nor in what an earlier version wrote.
    """

    step: int
    examples: int
    format_rate: float
    accuracy: float
    auc: float
    relevant_share: float
    scores: list[float] = field(repr=False)
    labels: list[int] = field(repr=False)
    query_aucs: list[float] = field(default_factory=list, repr=False)

    @property
    def query_auc(self) -> float:
        """The AUC within queries, the mean over them; NaN where none is known, or a score is."""
        return float(np.mean(self.query_aucs)) if self.query_aucs else math.nan

    @property
    def when(self) -> str:
        """`before`, or `after 12 steps`: what a heading says."""
        return f"after {self.step} steps" if self.step else "before"

    @property
    def told(self) -> str:
        """Its rates and AUCs in a few words."""
        within = f", within {len(self.query_aucs)} queries {self.query_auc:.3f}" if self.query_aucs else ""
        return f"format {self.format_rate:.3f}, accuracy {self.accuracy:.3f}, AUC {self.auc:.3f}{within}"


def to_record(result: ProbeResult) -> dict[str, Any]:
    """The fields of a result in words of JSON, and `query_auc`; what is not finite or not known is null."""
    lists = {name: [_finite_or_none(value) for value in getattr(result, name)] for name in _OF_FLOATS}
    aucs = {name: _finite_or_none(getattr(result, name)) for name in ("auc", "query_auc")}
    return asdict(result) | lists | aucs


def from_record(record: Mapping[str, Any]) -> ProbeResult:
    """The result of such a record, or of one that an earlier version wrote; null is read as NaN."""
    known = {field.name: record[field.name] for field in fields(ProbeResult) if field.name in record}
    lists = {name: [_nan_for_none(value) for value in known.get(name, [])] for name in _OF_FLOATS}
    return ProbeResult(**{**known, **lists, "auc": _nan_for_none(record["auc"])})


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else value


def run_probe(
    probe_step: ProbeStep,
    params: Params,
    held_out: HeldOut,
    answers: AnswerTokens,
    mesh: Mesh,
    step: int,
    *,
    show_progress: bool = False,
) -> ProbeResult:
    """Scores and greedily answers the held-out prompts; filler rows are left out."""
    batches = [*held_out.batches, *held_out.companions]
    scores, completions, labels, examples = [], [], [], []
    for batch in track(batches, "held-out probe", transient=True, disable=not show_progress):
        batch_scores, batch_completions = jax.device_get(probe_step(params, put_whole_batch(batch, mesh)))
        real = np.asarray(batch.examples) >= 0
        scores.append(batch_scores[real])
        completions.append(batch_completions[real])
        labels.append(np.asarray(batch.labels)[real])
        examples.append(np.asarray(batch.examples)[real])
    all_scores, all_labels = np.concatenate(scores), np.concatenate(labels)
    queries = None if held_out.queries is None else held_out.queries[np.concatenate(examples)]
    sample = slice(held_out.prompts)  # the companions come behind it
    sample_scores, sample_labels = all_scores[sample], all_labels[sample]
    tokens = np.concatenate(completions)[sample]  # [n, L]
    return ProbeResult(
        step=step,
        examples=held_out.prompts,
        format_rate=float(np.mean(is_formatted(tokens, answers))),
        accuracy=float(np.mean(is_correct(tokens[:, None], sample_labels, answers))),
        auc=area_under_roc(sample_scores, sample_labels),
        relevant_share=float(np.mean(tokens[:, 0] == answers.one)),
        scores=sample_scores.astype(float).tolist(),
        labels=sample_labels.astype(int).tolist(),
        query_aucs=[] if queries is None else aucs_of_queries(all_scores, all_labels, queries),
    )
