"""Signs that a run learns nothing, or the wrong thing, read from its own metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from prorank_jax.auc import deviation_at_chance
from prorank_jax.probe import ProbeResult

TIED_STEPS = 20
ALL_RIGHT = 0.99
_WINDOW = 10
_TIED = 0.99
_IN_FULL = 0.99
_MORE_THAN_GUESSED = 0.6
_STANDARD_ERRORS = 2.0
_NAMES = {"auc": "AUC", "query_auc": "AUC within queries"}


@dataclass(frozen=True)
class Goals:
    """What the training of a stage is after.

    Attributes:
        learned: the metric that it drives up.
        most: the greatest value of that.
        held_out: fields of a probe that should rise with it.
        greatest_accuracy: share of sampled answers that can be right; see `sampled_accuracy`.
    """

    learned: str
    most: float
    held_out: tuple[str, ...]
    greatest_accuracy: float = 1.0


def signs_of_trouble(
    metrics: Sequence[Mapping[str, Any]], probes: Sequence[ProbeResult], goals: Goals
) -> dict[str, str]:
    """What a user should know of a run so far: kind of the trouble → a sentence with the remedy.

    Each kind is told as it was first seen, so a longer history never changes what was said of a shorter.

    Args:
        metrics: records of metrics.jsonl, in the order of their steps.
    """
    signs: dict[str, str] = {}
    tied = _tied_for_long(metrics, goals)
    if tied:
        signs["tied groups"] = tied
    parted = (
        _parted(metrics, probes[:count], goals.learned, name)
        for count in range(2, len(probes) + 1)
        for name in goals.held_out
    )
    overfit = next(filter(None, parted), "")
    return signs | ({"held-out": overfit} if overfit else {})


def learned_at(metrics: Sequence[Mapping[str, Any]], goals: Goals) -> int | None:
    """The step at which as many sampled answers as can be had long been right, and formatted; None: never.

    Nor is it told where hardly more can be right than by guessing.
    """
    if goals.greatest_accuracy < _MORE_THAN_GUESSED:
        return None
    right = 0.5 + (ALL_RIGHT - 0.5) / 0.5 * (goals.greatest_accuracy - 0.5)
    ends = range(TIED_STEPS, len(metrics) + 1)
    windows = (metrics[end - TIED_STEPS : end] for end in ends)
    reached = (w for w in windows if _mean(w, "accuracy") >= right and _mean(w, "format_rate") >= ALL_RIGHT)
    return next((window[-1]["step"] for window in reached), None)


def _tied_for_long(metrics: Sequence[Mapping[str, Any]], goals: Goals) -> str:
    """The gradient of GRPO's reward is zero where all rewards of a group are equal."""
    for tied in _tied_windows(metrics):
        when = f"for {TIED_STEPS} steps up to step {tied[-1]['step']}"
        if _none_answers(tied):
            return (
                f"no sampled answer was 0 or 1 {when}: every reward was the same, so it has no gradient; "
                "begin with a model that follows instructions, or with another data.system"
            )
        if _mean(tied, goals.learned) >= _IN_FULL * goals.most:
            continue
        if _mean(tied, "accuracy") >= ALL_RIGHT and _mean(tied, "format_rate") <= 1 - ALL_RIGHT:
            return (
                f"all sampled answers were right {when}, and none ended its turn after the digit: every "
                "reward was the same, so it has no gradient towards the format; start again with "
                "grpo.forced_ends 1, which tries such ends"
            )
        return (
            f"all completions of every group got the same reward {when}: it has no gradient, and the policy "
            "may have collapsed into one answer; start again with a lower optimizer.learning_rate or a "
            "higher grpo.entropy_coefficient"
        )
    return ""


def _tied_windows(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Every `TIED_STEPS` records in a row in which (nearly) all groups tied."""
    in_a_row = 0
    for count, record in enumerate(metrics, start=1):
        share = record.get("tied_groups")
        in_a_row = in_a_row + 1 if share is not None and share >= _TIED else 0
        if in_a_row >= TIED_STEPS:
            yield metrics[count - TIED_STEPS : count]


def _none_answers(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no answer was right or in the format, as where none is `0` or `1` at all."""
    shares = [record.get(name) for record in records for name in ("accuracy", "format_rate", "reward")]
    return all(share is not None and share <= 0 for share in shares)


def _mean(records: Sequence[Mapping[str, Any]], name: str) -> float:
    """Of a metric; what was not finite counts as 0."""
    return statistics.fmean(record.get(name) or 0.0 for record in records)


def _parted(
    metrics: Sequence[Mapping[str, Any]], probes: Sequence[ProbeResult], learned: str, held_out: str
) -> str:
    """Training gains while the held-out probe falls by more than its noise."""
    last = probes[-1]
    known = [probe for probe in probes[:-1] if _are_comparable(probe, last, held_out)]
    if not known:
        return ""
    best = max(known, key=lambda probe: getattr(probe, held_out))
    fall = getattr(best, held_out) - getattr(last, held_out)
    noise = _errors_of_best(len(known)) * _error_of_difference(best, last, held_out)
    before, now = _around(metrics, learned, best.step), _around(metrics, learned, last.step)
    if fall <= noise or before is None or now is None or now <= before:
        return ""
    name = _NAMES.get(held_out, held_out)
    return (
        f"held-out {name} fell from {getattr(best, held_out):.3f} (step {best.step}) to "
        f"{getattr(last, held_out):.3f} (step {last.step}) while {learned} in training rose from "
        f"{before:.3f} to {now:.3f}: the run learns its training pairs, or a way round the task; use fewer "
        "steps, a lower optimizer.learning_rate, or more queries"
    )


def _are_comparable(one: ProbeResult, other: ProbeResult, held_out: str) -> bool:
    are_known = all(math.isfinite(getattr(probe, held_out)) for probe in (one, other))
    return are_known and (held_out != "query_auc" or len(one.query_aucs) == len(other.query_aucs))


def _errors_of_best(count: int) -> float:
    """Standard errors below the best of so many earlier probes that count as a fall (Bonferroni)."""
    normal = NormalDist()
    return normal.inv_cdf(1 - (1 - normal.cdf(_STANDARD_ERRORS)) / count)


def _error_of_difference(one: ProbeResult, other: ProbeResult, held_out: str) -> float:
    """The standard error of a field's difference between two probes that differ by chance.

    Both ask the same prompts. Of the AUC within queries that of each query is known, so it is that of the
    mean of their paired differences, each with either sign (with one pair of documents a query: McNemar's
    test). For the others the probes count as independent, which errs on the side of silence.
    """
    if held_out == "query_auc":
        pairs = zip(one.query_aucs, other.query_aucs, strict=True)
        return math.sqrt(sum((a - b) ** 2 for a, b in pairs)) / len(one.query_aucs)
    if held_out == "auc":
        half = other.examples // 2
        return math.sqrt(2) * deviation_at_chance(half, half)
    return math.sqrt(2 * 0.25 / other.examples)  # of a share, at most


def _around(metrics: Sequence[Mapping[str, Any]], name: str, step: int) -> float | None:
    """The mean of a metric over the last steps up to `step`, or over the first ones for step 0."""
    values = [(record["step"], record.get(name)) for record in metrics]
    real = [(at, value) for at, value in values if value is not None]
    until = [value for at, value in real if at <= step][-_WINDOW:]
    chosen = until or [value for _, value in real][:_WINDOW]
    return statistics.fmean(chosen) if chosen else None
