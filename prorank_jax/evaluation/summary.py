"""An evaluation as JSON: the entry of a dataset in metrics.json, its queries, and the average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prorank_jax.evaluation.first_stage import BM25
from prorank_jax.evaluation.harness import Evaluation, Fused
from prorank_jax.evaluation.metrics import MAIN_METRIC, means
from prorank_jax.evaluation.significance import as_json
from prorank_jax.source_names import CATALOGUE_PREFIX

# Of CQADupStack, which is twelve ids of ir_datasets and one dataset of BEIR.
FORUMS = "beir/cqadupstack/"


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """The entry of a dataset in metrics.json."""
    speed = evaluation.pairs_per_second
    entry: dict[str, Any] = {
        "first_stage": means(evaluation.first_stage.metrics),
        "reranked": means(evaluation.reranked.metrics),
        **as_json(evaluation.gain),
        "ceiling": {
            MAIN_METRIC: means(evaluation.ceiling.metrics)[MAIN_METRIC],
            **asdict(evaluation.reach),
        },
        "queries": len(evaluation.reranked.rankings),
        "pairs": evaluation.pairs,
        "pairs_per_second": None if speed is None else round(speed, 2),
        "scored_by": evaluation.scored_by,
    }
    if evaluation.compared and evaluation.gain_over_compared:
        entry["compared"] = {
            "run": evaluation.compared.name,
            "queries_lacking": evaluation.compared_lacks,
            "metrics": means(evaluation.compared.metrics),
            **as_json(evaluation.gain_over_compared),
        }
    if evaluation.fused:
        entry["fusion"] = _fusion_entry(evaluation.fused)
    return entry


def _fusion_entry(fused: Fused) -> dict[str, Any]:
    return {
        "method": fused.fusion.method,
        "label": fused.fusion.label,
        "weight": fused.fusion.weight,
        "tuned_on": fused.fusion.tuned_on,
        "metrics": means(fused.system.metrics),
        "over_first_stage": as_json(fused.gain),
        "over_reranked": as_json(fused.gain_over_reranked),
    }


def query_records(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One record for each query: its id and each metric of each system."""
    systems = {"first_stage": evaluation.first_stage, "reranked": evaluation.reranked}
    if evaluation.fused:
        systems["fused"] = evaluation.fused.system
    return [
        {
            "query": query,
            **{
                part: {metric: values[query] for metric, values in system.metrics.items()}
                for part, system in systems.items()
            },
        }
        for query in evaluation.reranked.rankings
    ]


def average(datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The plain mean over datasets, as BEIR averages: metrics of each system, and delta.

    The forums of CQADupStack count as one dataset together. `fused` is there where every dataset has a
    fusion, all by the same method, with one weight or each with a tuned one. `mixed` says what else a reader
    would not expect of it, if anything.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, entry in datasets.items():
        is_forum = name.removeprefix(CATALOGUE_PREFIX).startswith(FORUMS)
        groups.setdefault(FORUMS if is_forum else name, []).append(entry)

    def mean(part: Callable[[Mapping[str, Any]], Mapping[str, float]]) -> dict[str, float]:
        return _mean_metrics([_mean_metrics([part(entry) for entry in group]) for group in groups.values()])

    result: dict[str, Any] = {
        "first_stage": mean(lambda entry: entry["first_stage"]),
        "reranked": mean(lambda entry: entry["reranked"]),
        **mean(lambda entry: {"delta": entry["delta"]}),
    }
    kinds = {_fusion_kind(entry) for entry in datasets.values()}
    if len(kinds) == 1 and None not in kinds:
        result["fused"] = mean(lambda entry: entry["fusion"]["metrics"])
    if mixed := _mixed(list(groups.values())):
        result["mixed"] = mixed
    return result


def _fusion_kind(entry: Mapping[str, Any]) -> tuple[str, Any] | None:
    """What fusions must share to be averaged: the method, and the weight or that it was tuned."""
    fusion = entry.get("fusion")
    if fusion is None:
        return None
    return fusion["method"], "tuned" if fusion.get("tuned_on") else fusion.get("weight")


def _mixed(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """What holds for some of what an average is made of, at least in part, though it is not read so."""

    def count(holds: Callable[[Mapping[str, Any]], bool]) -> int:
        return sum(any(map(holds, group)) for group in groups)

    sampled = count(lambda entry: entry.get("sampled_from") is not None)
    trained = count(lambda entry: bool(entry.get("trained_on")))
    by_bm25 = count(lambda entry: entry.get("first_stage_name") == BM25)
    by_runs = count(lambda entry: entry.get("first_stage_name") != BM25)
    told = {
        f"{sampled} of {len(groups)} on a sample of the queries": sampled,
        f"{trained} of {len(groups)} on queries that the model was trained on": trained,
        f"{by_runs} of {len(groups)} after a run, the others after BM25": by_runs and by_bm25,
    }
    return [sentence for sentence, holds in told.items() if holds]


def _mean_metrics(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {metric: sum(value[metric] for value in values) / len(values) for metric in values[0]}
