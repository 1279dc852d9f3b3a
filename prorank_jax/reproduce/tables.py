"""The ablation as Markdown, for a README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prorank_jax.evaluation.metrics import MAIN_METRIC
from prorank_jax.evaluation.tables import MAIN_HEADING, format_interval, format_p
from prorank_jax.reproduce.overlap import ALL, GROUPS, SEEN, UNSEEN

_HEADINGS = (
    "",
    "seeds",
    "format rate",
    "accuracy",
    "AUC",
    f"{MAIN_HEADING} (95% interval)",
    "to BM25 (p)",
    "both stages minus this (p)",
)


def _spread(values: Mapping[str, float]) -> str:
    mean = f"{values['mean']:.3f}"
    if values["least"] == values["greatest"]:
        return mean
    return f"{mean} ({values['least']:.3f} to {values['greatest']:.3f})"


def _standing(values: Mapping[str, Any]) -> str:
    low, high = values["interval"]
    return f"{values['mean']:.3f} ({low:.3f} to {high:.3f})"


def _difference(comparison: Mapping[str, Any] | None) -> str:
    return "" if comparison is None else f"{comparison['delta']:+.3f} ({format_p(comparison['p_value'])})"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(content: Mapping[str, Any]) -> list[str]:
    lines = [_line(list(_HEADINGS)), _line(["---"] * len(_HEADINGS))]
    lines.append(_line(["BM25", *[""] * 4, _standing(content["first_stage"]), "", ""]))
    for row in content["rows"]:
        cells = [
            row["title"],
            str(len(row["seeds"])) if row["seeds"] else "",
            *(_spread(row[name]) for name in ("format_rate", "accuracy", "auc")),
            _standing(row[MAIN_METRIC]),
            _difference(row["to_first_stage"]),
            _difference(row["both_minus_this"]),
        ]
        lines.append(_line(cells))
    return lines


def _gain(comparison: Mapping[str, Any]) -> str:
    interval = format_interval(comparison["interval"])
    return f"{comparison['delta']:+.3f} ({interval}, p {format_p(comparison['p_value'])})"


def overlap_markdown(content: Mapping[str, Any]) -> str:
    """Whether trained rows gain on documents that no training query asks for: a table, or why there is none.

    Args:
        content: of ablation.json, with its `training_overlap`.
    """
    overlap = content["training_overlap"]
    counts, test, train = overlap["queries"], content["test_split"], content["train_split"]
    drawn = overlap.get("drawn_queries")
    trained = f"a query of {train}" if drawn is None else f"one of the {drawn} queries drawn from {train}"
    asked = f"is relevant for {trained}, or for one made from it"
    if not counts[SEEN]:
        return (
            f"None of the {counts[ALL]} measured queries of {test} has a relevant document that {asked}: "
            "every gain is on unseen documents."
        )
    if not counts[UNSEEN]:
        return (
            f"Each of the {counts[ALL]} measured queries of {test} has a relevant document that {asked}: "
            "nothing here says what the rows gain on unseen documents."
        )
    some = f"{counts[SEEN]} of the {counts[ALL]} measured queries of {test}"
    shared = f"{some} have a relevant document that {asked}."
    if not overlap["rows"]:
        return shared
    headings = [
        "",
        f"all {counts[ALL]} queries",
        f"the {counts[UNSEEN]} with unseen documents only",
        f"the {counts[SEEN]} others",
    ]
    lines = [_line(headings), _line(["---"] * len(headings))]
    lines += [_line([row["title"], *(_gain(row[group]) for group in GROUPS)]) for row in overlap["rows"]]
    return "\n\n".join(
        [f"{shared} {MAIN_HEADING} minus BM25 (95% interval, p) with and without them:", "\n".join(lines)]
    )


def ablation_markdown(content: Mapping[str, Any]) -> str:
    """The content of ablation.json as a table, with what it was measured on and by which commands."""
    sampled = " (a random sample)" if content["queries"] is not None else ""
    parts = [
        f"{content['model']} on {content['dataset']}: trained on {content['train_split']}, measured on "
        f"{content['evaluated_queries']} queries of {content['test_split']}{sampled}, BM25's best "
        f"{content['top_k']} reranked, prompts of at most {content['max_length']} tokens.",
        "\n".join(_table(content)),
        f"Format rate, accuracy and AUC: greedy answers and scores on the same {content['probed_prompts']} "
        "held-out prompts for every row, half of them relevant; mean over the seeds (least to greatest). "
        + content["pooling"],
    ]
    if "training_overlap" in content:
        parts.append(overlap_markdown(content))
    if "training_overlap_unknown" in content:
        parts.append(
            "What the rows gain on documents that training did not show is not known: "
            f"{content['training_overlap_unknown']}."
        )
    if content["missing"]:
        parts.append(f"**Not complete. Missing:** {', '.join(content['missing'])}.")
    commands = "\n".join(content.get("commands", [content["command"]]))
    parts.append(f"```\n{commands}\n```")
    return "\n\n".join(parts) + "\n"
