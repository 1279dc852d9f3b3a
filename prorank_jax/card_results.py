"""What a model card tells of training and of what was measured: sections and tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prorank_jax.card_prompts import exported_otherwise, measured_otherwise
from prorank_jax.config import RunConfig
from prorank_jax.config_files import config_to_dict, flatten
from prorank_jax.evaluation.tables import format_p
from prorank_jax.messages import without_folders
from prorank_jax.model_history import DatasetResult, Evaluation, RunHistory, RunRecord
from prorank_jax.prompt_settings import PromptSettings

# What decides nothing about the weights.
_UNTOLD = ("output_dir", "train.sample_every", "mesh.", "checkpoint.", "probe.")
_OF_OTHER_STAGE = {1: "ranking.", 2: "grpo."}
_PROBE_HEADINGS = {
    "format_rate": "format rate (greedy)",
    "accuracy": "accuracy (greedy)",
    "auc": "AUC of the score",
    "query_auc": "AUC within queries",
    "relevant_share": "share answered 1",
}


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; bars and line breaks inside a cell do not end it."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(" ".join(str(c).split()).replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(headings), "|" + "---|" * len(headings), *map(line, rows)])


def training_section(history: RunHistory, own: PromptSettings | None, folder: PromptSettings) -> str:
    """The runs behind the weights: what the probe saw before and after each, and its config.

    Args:
        own, folder: see `exported_otherwise`, whose sentence stands behind the runs.
    """
    if not history.stages:
        return "No run of prorank-jax is known for these weights: they are as they were loaded."
    numbered = enumerate(history.runs, start=1 + len(history.earlier.stages))
    runs = (_run(number, record) for number, record in numbered)
    parts = [history.earlier.text, *runs, exported_otherwise(own, folder)]
    return "\n\n".join(filter(None, parts))


def _run(number: int, record: RunRecord) -> str:
    planned = record.config.train.steps
    steps = planned if record.step is None else record.step
    counted = f"{steps} of {planned}" if steps < planned else f"{steps}"
    title = f"### Run {number}: stage {record.config.stage}, {counted} steps"
    config = table(
        ("field", "value"), [(f"`{name}`", _shown(value)) for name, value in _told_fields(record.config)]
    )
    told = [record.before, record.after] if record.before else [record.after]  # the first may be lost
    rows = [
        (heading, *(f"{probe[name]:.3f}" for probe in told))
        for name, heading in _PROBE_HEADINGS.items()
        if all(name in probe for probe in told)
    ]
    if not rows:
        return f"{title}\n\nThe run left no report of a held-out probe of these weights.\n\n{config}"
    examples = int(record.after.get("examples", 0))
    last = int(record.after.get("step", steps))
    headings = ("held-out probe", *(["before"] if record.before else []), f"after {last} steps")
    probes = table(headings, rows)
    return f"{title}\n\n{probes}\n\nThe probe has {examples} prompts, half of them relevant.\n\n{config}"


def _told_fields(config: RunConfig) -> list[tuple[str, Any]]:
    untold = (*_UNTOLD, _OF_OTHER_STAGE.get(config.stage, "\0"))
    return [
        (name, without_folders(value) if isinstance(value, str) else value)
        for name, value in flatten(config_to_dict(config)).items()
        if not name.startswith(untold)
    ]


def _shown(value: Any) -> str:
    return "" if value == "" else f"`{value}`"


def evaluation_section(
    evaluations: Sequence[Evaluation], own: PromptSettings | None, folder: PromptSettings
) -> str:
    """A table of figures for each evaluation: the first stage and the reranked order.

    Args:
        own, folder: see `measured_otherwise`, whose sentence stands before the table.
    """
    if not evaluations:
        return "No evaluation was given when this folder was exported."
    return "\n\n".join(_evaluation(each, measured_otherwise(each, own, folder)) for each in evaluations)


def _evaluation(evaluation: Evaluation, otherwise: str) -> str:
    names = list(dict.fromkeys(name for result in evaluation.datasets for name in result.reranked))
    rows: list[list[str]] = []
    for result in evaluation.datasets:
        p_value = "" if result.p_value is None else format_p(result.p_value, decimals=4)
        name = without_folders(result.name) + (" (trained on it)" if result.trained_on else "")
        subject = [name, _measured_queries(result)]
        first = f" ({without_folders(result.first_stage_name)})" if result.first_stage_name else ""
        rows.append([*subject, f"first stage{first}", *_figures(result.first_stage, names), ""])
        rows.append([*subject, "reranked", *_figures(result.reranked, names), p_value])
    model = f" of `{without_folders(evaluation.model)}`" if evaluation.model else ""
    depth = f", top {evaluation.top_k} of the first stage reranked" if evaluation.top_k else ""
    length = f", prompts of at most {evaluation.max_length} tokens" if evaluation.max_length else ""
    chosen = "".join(f", `{name}` {_shown(value)}" for name, value in evaluation.chosen.items() if value)
    told = f"{otherwise} " if otherwise else ""
    seen = (
        "Where the model was trained on the queries, the figures say how well it remembers them, not how "
        "well it ranks for others. "
        if any(result.trained_on for result in evaluation.datasets)
        else ""
    )
    return (
        f"Measured with `launch/evaluate.py`{model}{depth}{length}{chosen}. {told}{seen}The p-value is of "
        "the difference to the first stage.\n\n"
        + table(("collection", "queries", "ranking", *names, "p"), rows)
    )


def _measured_queries(result: DatasetResult) -> str:
    if result.queries is None:
        return ""
    return f"{result.queries} of {result.sampled_from}" if result.sampled_from else str(result.queries)


def _figures(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{values[name]:.4f}" if name in values else "" for name in names]
