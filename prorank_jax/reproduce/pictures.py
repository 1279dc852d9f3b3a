"""The pictures of an ablation, as PNG: where the rows end, and how they got there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prorank_jax.evaluation.metrics import MAIN_METRIC
from prorank_jax.evaluation.pictures import BETTER, PALE, new_figure, to_png
from prorank_jax.evaluation.tables import MAIN_HEADING
from prorank_jax.messages import without_folders
from prorank_jax.report import smooth
from prorank_jax.reproduce.rows import BOTH, STAGE1, STAGE2, TITLES

COLOURS = {STAGE1: "#c98b1b", STAGE2: "#3b5998", BOTH: BETTER}
_HELD_OUT = {"format_rate": "format rate", "accuracy": "accuracy", "auc": "AUC"}


@dataclass(frozen=True)
class Curves:
    """A finished run of a row: its records of probes and of steps, as its files hold them."""

    row: str
    seed: int
    probes: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]


def draw_ablation(content: Mapping[str, Any]) -> bytes:
    """A bar with its interval for each row, a point for each seed, and BM25 as a line."""
    rows = content["rows"]
    figure = new_figure(max(5.0, 1.5 + 1.6 * len(rows)), 4.4)
    axes = figure.subplots()
    bm25 = content["first_stage"]["mean"]
    tops = [bm25]
    for place, row in enumerate(rows):
        values = row[MAIN_METRIC]
        mean, (low, high) = values["mean"], values["interval"]
        axes.bar(place, mean, width=0.6, color=COLOURS.get(row["row"], PALE), alpha=0.75)
        axes.errorbar(
            place,
            mean,
            yerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]],
            fmt="none",
            ecolor="black",
            capsize=5,
        )
        seeds = values["of_each_seed"]
        places = place + 0.18 + np.linspace(-0.06, 0.06, len(seeds)) if len(seeds) > 1 else [place + 0.18]
        axes.plot(places, seeds, "o", color="white", markeredgecolor="black", markersize=5)
        top = max(high, *seeds)
        axes.annotate(f"{mean:.3f}", (place, top), (0, 4), textcoords="offset points", ha="center")
        tops.append(top)
    axes.axhline(bm25, color="black", linestyle="--", linewidth=1, label=f"BM25 {bm25:.3f}")
    collection = without_folders(content["dataset"])
    axes.set(
        title=f"{collection}, {content['test_split']}: {content['evaluated_queries']} queries",
        ylabel=f"{MAIN_HEADING} (bars: 95% interval, points: seeds)",
        ylim=(0, min(1.2, 1.25 * max(*tops, 1e-3))),
    )
    axes.set_xticks(range(len(rows)), [row["title"] for row in rows])
    axes.legend(loc="upper left")
    axes.grid(axis="y", alpha=0.3)
    return to_png(figure)


def draw_learning(runs: Sequence[Curves]) -> bytes:
    """Above: stage 1's held-out probes. Below: the loss and list nDCG of stage 2, and its held-out AUC."""
    figure = new_figure(13, 7)
    above, below = figure.subplots(2, 3)
    for axes, (name, heading) in zip(above, _HELD_OUT.items(), strict=True):
        _draw_probes(axes, [run for run in runs if run.row == STAGE1], name)
        axes.set(title=f"stage 1: {heading} (held out)", xlabel="step", ylim=(-0.03, 1.03))
    ranking = [run for run in runs if run.row != STAGE1]
    for axes, name, heading in ((below[0], "loss", "loss"), (below[1], "ndcg", "nDCG within the lists")):
        for run in ranking:
            steps = [record["step"] for record in run.steps]
            _line(axes, run, steps, smooth([record[name] for record in run.steps]).tolist())
        axes.set(title=f"stage 2: {heading}", xlabel="step (means of the last 10)")
    _draw_probes(below[2], ranking, "auc")
    below[2].set(title="stage 2: AUC (held out)", xlabel="step", ylim=(-0.03, 1.03))
    for axes in (*above, *below):
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend(fontsize=8)
    return to_png(figure)


def _draw_probes(axes: Any, runs: Sequence[Curves], name: str) -> None:
    for run in runs:
        _line(axes, run, [probe["step"] for probe in run.probes], [probe[name] for probe in run.probes], "o")


def _line(axes: Any, run: Curves, steps: Sequence[int], values: Sequence[float], marker: str = "") -> None:
    """One seed's curve; the legend names a row once."""
    is_first = TITLES[run.row] not in axes.get_legend_handles_labels()[1]
    label = TITLES[run.row] if is_first else None
    axes.plot(steps, values, marker=marker, markersize=3, linewidth=1.2, color=COLOURS[run.row], label=label)
