"""The end of a run: a before/after table, report.json, and a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from prorank_jax.probe import ProbeResult, to_record
from prorank_jax.run_folder import REPORT_FILE, write_atomically, write_json

PICTURE_FILE = "report.png"
_ROWS = (
    ("format rate (greedy)", "format_rate"),
    ("accuracy (greedy)", "accuracy"),
    ("AUC of the score", "auc"),
    ("AUC within queries", "query_auc"),
    ("share answered 1", "relevant_share"),
)
_OF_EACH = ("scores", "labels", "query_aucs")
_SMOOTHING_STEPS = 10


def before_after_rows(probes: Sequence[ProbeResult]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the probe before the run, at its middle and after it; rows begin with a name."""
    columns = [probes[0], *probes[1:-1][len(probes[1:-1]) // 2 :][:1], *probes[1:][-1:]]
    headings = [probe.when for probe in columns]
    rows = [
        [heading, *(_figure(getattr(probe, name)) for probe in columns)]
        for heading, name in _ROWS
        if name != "query_auc" or _knows_order(probes)
    ]
    return headings, rows


def _knows_order(probes: Sequence[ProbeResult]) -> bool:
    """Stage 1 does not measure the order within queries, nor did earlier versions."""
    return any(probe.query_aucs for probe in probes)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def before_after_table(probes: Sequence[ProbeResult]) -> Table:
    """The held-out probe before the run, at its middle and after it."""
    headings, rows = before_after_rows(probes)
    table = Table(title=f"held-out probe, {probes[0].examples} prompts, half of them relevant")
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def write_report(
    output_dir: Path,
    probes: Sequence[ProbeResult],
    metrics: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Writes report.json: probes, facts of the run, last metrics; a run that has it is complete.

    A later probe never stands as `before`: null does.
    """
    summaries = [
        {name: value for name, value in to_record(probe).items() if name not in _OF_EACH} for probe in probes
    ]
    content = {
        "before": None if probes[0].step else summaries[0],
        "after": summaries[-1],
        "probes": summaries,
        "last_metrics": dict(metrics[-1]) if metrics else {},
        **facts,
    }
    write_json(output_dir / REPORT_FILE, content)


def smooth(values: Sequence[float | None]) -> np.ndarray:
    """Trailing mean over a few steps; the first values average what there is."""
    series = np.asarray([np.nan if value is None else value for value in values], float)
    windows = [series[max(0, i + 1 - _SMOOTHING_STEPS) : i + 1] for i in range(len(series))]
    return np.asarray([np.nanmean(w) if np.isfinite(w).any() else np.nan for w in windows])


def draw_report(
    file: Path,
    probes: Sequence[ProbeResult],
    metrics: Sequence[Mapping[str, Any]],
    curves: Mapping[str, str],
) -> None:
    """Draws training curves, probe curves, and the scores of both classes before and after, as a PNG.

    Args:
        curves: metrics to draw over the steps, with what the legend calls them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    FigureCanvasAgg(figure)
    training, held_out, before, after = figure.subplots(2, 2).flatten()
    steps = [record["step"] for record in metrics]
    for name, label in curves.items():
        training.plot(steps, smooth([record[name] for record in metrics]), label=label)
    training.set(title=f"in training (mean of {_SMOOTHING_STEPS} steps)", xlabel="step")
    probe_steps = [probe.step for probe in probes]
    for heading, name in _ROWS[: 4 if _knows_order(probes) else 3]:
        held_out.plot(probe_steps, [getattr(probe, name) for probe in probes], marker="o", label=heading)
    held_out.axhline(0.5, color="grey", linewidth=0.8, linestyle=":", label="chance")
    held_out.set(title=f"held out ({probes[0].examples} prompts)", xlabel="step", ylim=(-0.03, 1.03))
    for axes, probe, title in ((before, probes[0], probes[0].when), (after, probes[-1], "after")):
        _draw_scores(axes, probe, f"{title}: AUC {probe.auc:.3f}")
    for axes in (training, held_out, before, after):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(file, picture.getvalue())


def _draw_scores(axes: Any, probe: ProbeResult, title: str) -> None:
    scores, labels = np.asarray(probe.scores, float), np.asarray(probe.labels)
    finite = np.isfinite(scores)
    scores, labels = scores[finite], labels[finite]
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 0.0)
    edges = np.linspace(low, high + 1e-6, 31)
    for label, name in ((1, "relevant"), (0, "irrelevant")):
        axes.hist(scores[labels == label], bins=edges, alpha=0.6, label=name)
    axes.set(title=title, xlabel='score = logit("1") - logit("0")', ylabel="held-out prompts")
