"""What is known of a run when it is judged: its records, and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prorank_jax.learning_signs import Goals
from prorank_jax.probe import ProbeResult


@dataclass(frozen=True)
class DataFacts:
    """The examples that a run trains on.

    Attributes:
        queries: different ones.
        examples: pairs of a query and a document.
        relevant: pairs of `data.relevant_grade` or higher.
        cut: pairs whose prompt is as long as `data.max_length` allows, nearly all of them cut.
    """

    queries: int
    examples: int
    relevant: int
    cut: int


@dataclass(frozen=True)
class RunFacts:
    """What a diagnosis looks at.

    Attributes:
        stage: 1 or 2.
        metrics: records of metrics.jsonl, in the order of their steps.
        probes: the first is before training, unless that one was lost; at least one.
        goals: of the stage.
        max_grad_norm: norm from which a gradient is clipped.
        data: what was trained on.
        shows_key_sentences: whether `data.excerpts` chooses what is seen of a long document.
        holds_format: whether `ranking.format_coefficient` is in use.
        updates_per_step: `grpo.updates_per_rollout` of stage 1.
        computes_in_float32: whether `model.compute_dtype` is float32.
    """

    stage: int
    metrics: Sequence[Mapping[str, Any]]
    probes: Sequence[ProbeResult]
    goals: Goals
    max_grad_norm: float
    data: DataFacts
    shows_key_sentences: bool = False
    holds_format: bool = False
    updates_per_step: int = 1
    computes_in_float32: bool = False


def data_facts(queries: np.ndarray, labels: np.ndarray, lengths: np.ndarray, max_length: int) -> DataFacts:
    """Counts the examples, given the number of the query, the label (0 or 1) and the tokens of each: [n]."""
    cut = int(np.sum(lengths >= max_length))
    return DataFacts(len(np.unique(queries)), len(labels), int(np.sum(labels == 1)), cut)


def reading(stage: int, steps: int, batch_size: int, data: DataFacts) -> str:
    """A line on how much of its data a run reads.

    Args:
        batch_size: prompts of stage 1, half of them relevant; lists of stage 2, one of each query.
    """
    drawn = steps * batch_size
    if stage == 1:
        there = {"relevant": data.relevant, "irrelevant": data.examples - data.relevant}
        read = " and ".join(_part(drawn // 2, count, f"{count} {kind} ones") for kind, count in there.items())
    else:
        read = _part(drawn, data.queries, "them")
    unit = "prompts" if stage == 1 else "lists"
    return f"data: {data.queries} queries; {steps} steps x {batch_size} {unit} read {read}" + (
        f". Each batch holds some list more than once; train.batch_size {data.queries} or less does not"
        if stage == 2 and batch_size > data.queries
        else ""
    )


def _part(drawn: int, there: int, named: str) -> str:
    if drawn > there:
        return f"each of {named} {drawn / there:.1f} times"
    percent = 100 * drawn / there
    return f"{percent:.0f}% of {named}" if percent >= 10 else f"{percent:.2g}% of {named}"


def skipped_updates(facts: RunFacts) -> int:
    """Updates whose loss or gradient was not finite; each record has the share of its step's."""
    shares = sum(record.get("skipped") or 0 for record in facts.metrics)
    return round(shares * facts.updates_per_step)
