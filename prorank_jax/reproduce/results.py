"""From the files of the models to the content of ablation.json: pooled over seeds, tested over queries."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prorank_jax.evaluation.metrics import MAIN_METRIC
from prorank_jax.evaluation.significance import as_json, bootstrap_interval, compare
from prorank_jax.metrics_log import read_lines
from prorank_jax.model_identity import FINGERPRINT, has_fingerprint
from prorank_jax.reproduce.plan import Entry, Plan
from prorank_jax.reproduce.rows import BASE, BOTH, ROWS, TITLES

PROBED = ("format_rate", "accuracy", "auc")
POOLING = (
    "A query's value in a row is its mean nDCG@10 over the row's seeds. Intervals (bootstrap, 95%) and "
    "p-values (two-sided paired randomization test) are over queries of those means, so they say nothing of "
    "the spread over seeds. No p-value is corrected for the number of tests."
)

# query id → nDCG@10
QueryValues = Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """A model that was probed and evaluated.

    Attributes:
        entry: which one.
        probe: each of `PROBED`, and `examples`.
        first_stage, reranked: query id → nDCG@10.
    """

    entry: Entry
    probe: Mapping[str, float]
    first_stage: QueryValues
    reranked: QueryValues


def read_measured(plan: Plan, entry: Entry) -> Measured | None:
    """What is on disk about an entry; None while its probe or its evaluation is missing.

    Raises:
        ValueError: they are not of one model, or of a run before its end.
    """
    files = (plan.probe_file(entry), plan.metrics_file(entry))
    if not all(file.is_file() for file in files):
        return None
    probe, metrics = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    ended = [] if entry.row == BASE else [plan.run_config(entry).train.steps]
    for name, wanted in ((FINGERPRINT, []), ("model_step", ended)):
        # An earlier version may not have written the name.
        told = {*wanted, *(content[name] for content in (probe, metrics) if name in content)}
        if len(told) > 1 and not (name == FINGERPRINT and _are_of(plan.model(entry), told)):
            raise ValueError(
                f"{entry.title}: its probe and its evaluation are not of one model, trained to its end "
                f"({name}: {', '.join(sorted(map(str, told)))}); delete {files[0].parent} and "
                f"{files[1].parent}, and run this again"
            )
    records = read_lines(plan.queries_file(entry))
    before, after = (
        {record["query"]: record[part][MAIN_METRIC] for record in records}
        for part in ("first_stage", "reranked")
    )
    return Measured(entry, {name: probe[name] for name in (*PROBED, "examples")}, before, after)


def _are_of(model: str, fingerprints: Collection[str]) -> bool:
    """Whether a model has all of them, as where an earlier version gave one; False where it is not there."""
    try:
        return all(has_fingerprint(model, one) for one in fingerprints)
    except ValueError:
        return False


def pool(seeds: Sequence[QueryValues]) -> dict[str, float]:
    """Each query's mean over the seeds.

    Raises:
        ValueError: no seed, or seeds measured on different queries.
    """
    if not seeds or any(values.keys() != seeds[0].keys() for values in seeds):
        raise ValueError(f"pool: {len(seeds)} seeds; give at least one, all with the same queries")
    return {query: float(np.mean([values[query] for values in seeds])) for query in seeds[0]}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "least": min(values), "greatest": max(values)}


def _standing(values: QueryValues) -> dict[str, Any]:
    column = np.array(list(values.values()))
    return {"mean": float(column.mean()), "interval": list(bootstrap_interval(column))}


def _row(
    row: str, measured: Sequence[Measured], first_stage: QueryValues, both: QueryValues | None
) -> dict[str, Any]:
    values = pool([one.reranked for one in measured])
    is_compared = both is not None and row != BOTH
    return {
        "row": row,
        "title": TITLES[row],
        "seeds": [] if row == BASE else [one.entry.seed for one in measured],
        **{name: _spread([one.probe[name] for one in measured]) for name in PROBED},
        MAIN_METRIC: {
            **_standing(values),
            "of_each_seed": [float(np.mean(list(one.reranked.values()))) for one in measured],
        },
        "to_first_stage": as_json(compare(values, first_stage)),
        "both_minus_this": as_json(compare(both, values)) if is_compared and both is not None else None,
    }


def pool_rows(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Row → each query's mean over the row's seeds, of the rows that are there.

    Raises:
        ValueError: seeds measured on different queries.
    """
    groups = {row: [one.reranked for one in measured if one.entry.row == row] for row in ROWS}
    return {row: pool(seeds) for row, seeds in groups.items() if seeds}


def ablation_content(
    facts: Mapping[str, Any], measured: Sequence[Measured], missing: Sequence[Entry]
) -> dict[str, Any]:
    """The content of ablation.json.

    Args:
        facts: about the ablation as a whole; they come first.
        measured: at least one model; all on the same queries, candidates and prompts.
        missing: models that the options ask for and that are not there yet.

    Raises:
        ValueError: no model, or models measured on different queries.
    """
    if not measured:
        raise ValueError("ablation: no model is measured yet")
    first_stage, both = measured[0].first_stage, pool_rows(measured).get(BOTH)
    if any(one.first_stage != first_stage for one in measured):
        raise ValueError("ablation: the models were given different candidates; evaluate them again")
    groups = {row: [one for one in measured if one.entry.row == row] for row in ROWS}
    return {
        **facts,
        "metric": MAIN_METRIC,
        "evaluated_queries": len(first_stage),
        "probed_prompts": measured[0].probe["examples"],
        "pooling": POOLING,
        "missing": [entry.title for entry in missing],
        "first_stage": _standing(first_stage),
        "rows": [_row(row, group, first_stage, both) for row, group in groups.items() if group],
    }
