"""The pictures of a report, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from prorank_jax.evaluation.harness import Evaluation

UNJUDGED = "not judged"
BETTER, WORSE, PALE = "#2a7f62", "#c0504d", "#bbbbbb"


def new_figure(width: float, height: float) -> Any:
    """A figure that needs no display and touches no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Any) -> bytes:
    """The picture as the bytes of a PNG file; a `$` in a name is no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def scores_by_grade(evaluation: Evaluation, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, np.ndarray]:
    """The model's scores of all pairs, split by grade: `not judged` first, then the grades ascending."""
    groups: dict[int | None, list[float]] = {}
    for query, scored in evaluation.scores.items():
        for document, score in zip(scored.documents, scored.scores, strict=True):
            groups.setdefault(qrels[query].get(document), []).append(score)
    ordered = sorted(groups, key=lambda grade: (grade is not None, grade))
    return {UNJUDGED if grade is None else f"grade {grade}": np.asarray(groups[grade]) for grade in ordered}


def draw_gains(evaluation: Evaluation) -> bytes:
    """Each query's change in nDCG@10, sorted: green where reranking helped, red where it harmed."""
    before, after = evaluation.first_stage.main, evaluation.reranked.main
    gains = np.sort([after[query] - before[query] for query in after])[::-1]
    figure = new_figure(9, 3.6)
    axes = figure.subplots()
    edges = np.arange(len(gains) + 1) + 0.5
    # Two outlines whatever the number of queries: a patch for each takes seconds from some thousands on.
    axes.stairs(np.maximum(gains, 0), edges, fill=True, color=BETTER)
    axes.stairs(np.minimum(gains, 0), edges, fill=True, color=WORSE)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(gains.mean(), color="#3b5998", linestyle="--", label=f"mean {gains.mean():+.3f}")
    gain = evaluation.gain
    axes.set(
        title=f"{gain.wins} queries better, {gain.ties} equal, {gain.losses} worse",
        xlabel="queries, from the largest gain to the largest loss",
        ylabel="change in nDCG@10",
        xlim=(0.5, len(gains) + 0.5),
        ylim=(-1.05, 1.05),
    )
    axes.legend(loc="upper right")  # the largest gains are on the left
    axes.grid(axis="y", alpha=0.3)
    return to_png(figure)


def draw_scores(evaluation: Evaluation, qrels: Mapping[str, Mapping[str, int]]) -> bytes | None:
    """The scores of each grade as a box (quartiles, 5% to 95%, outliers as dots); None without pairs."""
    groups = scores_by_grade(evaluation, qrels)
    if not groups:
        return None
    figure = new_figure(9, 3.6)
    axes = figure.subplots()
    boxes = axes.boxplot(
        list(groups.values()),
        whis=(5, 95),
        widths=0.5,
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "grey"},
        medianprops={"color": "black", "linewidth": 1.8},
    )
    for box, name in zip(boxes["boxes"], groups, strict=True):
        box.set_facecolor(PALE if name == UNJUDGED else BETTER)
        box.set_alpha(0.7)
    places = range(1, len(groups) + 1)
    axes.set_xticks(places, [f"{name}\n{len(scores)} pairs" for name, scores in groups.items()])
    axes.set(ylabel='score = logit("1") - logit("0")')
    axes.grid(axis="y", alpha=0.3)
    return to_png(figure)
