"""What the AUCs of a run's probes say: over all queries, and within queries where only that is learned."""

from __future__ import annotations

import math

from prorank_jax.auc import deviation_at_chance
from prorank_jax.metric_change import MetricChange, metric_change
from prorank_jax.probe import ProbeResult
from prorank_jax.run_facts import RunFacts

_STANDARD_ERRORS = 3.0
_ONE_SIDED_95 = 1.645


def judged_auc(facts: RunFacts) -> tuple[str, float, float]:
    """The AUC by which a run is judged: its name, and its first and last value."""
    first, last = facts.probes[0], facts.probes[-1]
    if _leaves_levels_free(facts) and first.query_aucs and last.query_aucs:
        return f"AUC within {len(last.query_aucs)} queries", first.query_auc, last.query_auc
    return "AUC", first.auc, last.auc


def _auc_beyond_chance(last: ProbeResult) -> float:
    """The AUC that a one-sided test at 5% tells from 0.5, by the variance of the Mann-Whitney statistic."""
    half = last.examples // 2
    return 0.5 + _ONE_SIDED_95 * deviation_at_chance(half, half)


def _query_auc_beyond_chance(last: ProbeResult) -> float:
    """The same of the AUC within queries: its distance from 0.5, each query's with either sign."""
    return 0.5 + _ONE_SIDED_95 * math.hypot(*(auc - 0.5 for auc in last.query_aucs)) / len(last.query_aucs)


def _leaves_levels_free(facts: RunFacts) -> bool:
    """Whether an AUC over all queries need not rise: the losses compare documents of one query only."""
    return facts.stage == 2 and "auc" not in facts.goals.held_out


def _within_queries(facts: RunFacts) -> str:
    """What is known of the order within queries."""
    first, last = facts.probes[0], facts.probes[-1]
    if not last.query_aucs:
        return "the order within queries may well be better: launch/evaluate.py measures that"
    before = f"{first.query_auc:.3f} before and " if first.query_aucs and not first.step else ""
    return f"see the AUC within queries, {before}{last.query_auc:.3f} after"


def _order_that_improved(facts: RunFacts) -> MetricChange | None:
    """How the order within queries improved in training, where the AUC may not show it."""
    change = metric_change(facts.metrics, facts.goals.learned) if _leaves_levels_free(facts) else None
    return change if change is not None and change.errors > _STANDARD_ERRORS else None


def low_auc(facts: RunFacts) -> str:
    """What is to be said of an AUC of stage 2 that is no trouble; "": nothing."""
    low = _low(facts)
    if not low:
        return ""
    within = _within_queries(facts)
    lists_only = (
        f"; losses over lists compare documents of one query only, so {within}. Where one threshold for all "
        "queries matters, add pointwise to ranking.losses."
    )
    ending = lists_only if _leaves_levels_free(facts) else f", and {within}."
    return f"The held-out AUC {low}. It is over the prompts of all queries{ending}"


def _low(facts: RunFacts) -> str:
    first, last = facts.probes[0], facts.probes[-1]
    improved = _order_that_improved(facts)
    fell = f"fell from {first.auc:.3f} to {last.auc:.3f}" if facts.stage == 2 and last.auc < first.auc else ""
    if improved is None or not last.auc < _auc_beyond_chance(last):
        return fell
    at_chance = (
        f"cannot be told from chance with {last.examples} prompts, while {facts.goals.learned} in training "
        f"rose from {improved.start:.3f} to {improved.end:.3f}"
    )
    return f"{fell} and {at_chance}" if fell else f"of {last.auc:.3f} {at_chance}"


def at_chance(facts: RunFacts) -> str:
    """By the order within queries where only that is learned; where it is not known but improved, nothing."""
    last = facts.probes[-1]
    if _leaves_levels_free(facts) and last.query_aucs:
        return _order_at_chance(last)
    bound = _auc_beyond_chance(last)
    if math.isnan(last.auc) or last.auc >= bound or _order_that_improved(facts):
        return ""
    if bound >= 1:
        return (
            f"the probe's {last.examples} prompts are too few to tell any AUC from chance: hold out more "
            "queries, or raise probe.examples"
        )
    over_all = (
        " (over the prompts of all queries, whose levels the losses leave free; but "
        f"{facts.goals.learned} in training did not clearly rise either)"
    )
    return (
        f"the held-out AUC of {last.auc:.3f} cannot be told from chance with {last.examples} prompts (that "
        f"takes {bound:.3f}){over_all if _leaves_levels_free(facts) else ''}: it does not show that the "
        "scores rank; train for more steps or on more queries, and raise probe.examples to see small gains"
    )


def _order_at_chance(last: ProbeResult) -> str:
    queries, bound = len(last.query_aucs), _query_auc_beyond_chance(last)
    if math.isnan(last.query_auc) or last.query_auc > bound:
        return ""
    if bound >= 1:
        return (
            f"the probe's {queries} queries are too few to tell any AUC within queries from chance: hold out "
            "more queries, or raise probe.examples"
        )
    return (
        f"the held-out AUC within queries of {last.query_auc:.3f} cannot be told from chance with {queries} "
        f"queries (that takes more than {bound:.3f}): it does not show that the scores rank; train for more "
        "steps or on more queries, and raise probe.examples to see small gains"
    )
