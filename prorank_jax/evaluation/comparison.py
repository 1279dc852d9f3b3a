"""Several systems on the same queries: one table and one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from prorank_jax.evaluation.metrics import MAIN_METRIC, QueryMetrics, means
from prorank_jax.evaluation.pictures import new_figure, to_png
from prorank_jax.evaluation.significance import Comparison, as_json, bootstrap_interval, compare
from prorank_jax.evaluation.tables import MAIN_HEADING, format_interval, format_p
from prorank_jax.run_folder import write_atomically

_NAME_WIDTH = 18  # characters below a bar
SECOND_METRIC, SECOND_HEADING = "mrr@10", "MRR@10"

# system → its metrics, the first stage first
Systems = Mapping[str, QueryMetrics]


@dataclass(frozen=True)
class Standing:
    """One system among several.

    Attributes:
        name: of the system.
        mean: of nDCG@10 over the queries.
        interval: 95% bootstrap interval of the mean.
        metrics: metric → its mean over the queries.
        delta: difference to the first system in nDCG@10; None for that one.
        p_value: of that difference; None for that one.
        to_baseline: against the system that was chosen as baseline in nDCG@10; None for that one, and where
            none was chosen.
    """

    name: str
    mean: float
    interval: tuple[float, float]
    metrics: Mapping[str, float]
    delta: float | None = None
    p_value: float | None = None
    to_baseline: Comparison | None = None


def standings(systems: Systems, baseline: str | None = None) -> list[Standing]:
    """Each system's means and interval, and its difference to the first one and to the baseline.

    Args:
        systems: measured on the same queries.
        baseline: one of their names; None: nothing is tested against any but the first one.

    Raises:
        ValueError: no system, systems measured on different queries, or a baseline that is none of them.
    """
    if not systems:
        raise ValueError("standings: no system to compare; give at least one")
    check_baseline(baseline, list(systems))
    first = next(iter(systems))

    def against(name: str, other: str | None) -> Comparison | None:
        if other is None or other == name:
            return None
        return compare(systems[name][MAIN_METRIC], systems[other][MAIN_METRIC])

    result = []
    for name, metrics in systems.items():
        column = np.array(list(metrics[MAIN_METRIC].values()))
        to_first = against(name, first)
        standing = Standing(
            name,
            float(column.mean()),
            bootstrap_interval(column),
            means(metrics),
            to_first.delta if to_first else None,
            to_first.p_value if to_first else None,
            to_first if baseline == first else against(name, baseline),
        )
        result.append(standing)
    return result


def check_baseline(baseline: str | None, names: Sequence[str]) -> None:
    """Refuses a baseline that is none of the systems.

    Raises:
        ValueError: names those that there are.
    """
    if baseline is not None and baseline not in names:
        there = ", ".join(map(repr, names))
        raise ValueError(f"baseline={baseline!r}: no system of this comparison; name one of {there}")


def standing_json(standing: Standing) -> dict[str, Any]:
    """The fields of a standing, as JSON gives them back."""
    against = standing.to_baseline
    return {**as_json(standing), "to_baseline": None if against is None else as_json(against)}


def _difference(standing: Standing, baseline: str | None) -> float | None:
    """To the baseline, or without one to the first system."""
    if baseline is None:
        return standing.delta
    return None if standing.to_baseline is None else standing.to_baseline.delta


def comparison_table(title: str, ordered: Sequence[Standing], baseline: str | None = None) -> Table:
    """A row for each system; differences, their intervals and p-values are to the baseline.

    Without one they are to the first system, and intervals are of the means.
    """
    table = Table(title=Text(title))
    table.add_column("system")
    to_other = f"to {ordered[0].name if baseline is None else baseline}"
    headings = ("95% interval", to_other) if baseline is None else (to_other, "95% interval")
    for heading in (MAIN_HEADING, *headings, "p", SECOND_HEADING):
        # A name may be long: its heading alone may take several lines.
        table.add_column(Text(heading), justify="right", no_wrap=heading != to_other)
    for standing in ordered:
        cells = _to_first(standing) if baseline is None else _to_baseline(standing.to_baseline)
        mean, second = f"{standing.mean:.3f}", f"{standing.metrics[SECOND_METRIC]:.3f}"
        table.add_row(Text(standing.name), mean, *cells, second)
    return table


def _to_first(standing: Standing) -> tuple[str, str, str]:
    low, high = standing.interval
    return (
        f"{low:.3f} to {high:.3f}",
        "" if standing.delta is None else f"{standing.delta:+.3f}",
        "" if standing.p_value is None else format_p(standing.p_value),
    )


def _to_baseline(against: Comparison | None) -> tuple[str, str, str]:
    if against is None:
        return "", "", ""
    return f"{against.delta:+.3f}", format_interval(against.interval), format_p(against.p_value)


def draw_comparison(file: Path, title: str, ordered: Sequence[Standing], baseline: str | None = None) -> None:
    """A PNG with one bar for each system and its 95% bootstrap interval.

    The baseline, or without one the first system, is grey; the differences to it stand in brackets.
    """
    reference = ordered[0].name if baseline is None else baseline
    figure = new_figure(max(5.0, 1.5 + 1.6 * len(ordered)), 4.2)
    axes = figure.subplots()
    places = np.arange(len(ordered))
    heights = np.array([standing.mean for standing in ordered])
    low, high = np.array([standing.interval for standing in ordered]).T
    colors = ["#9a9a9a" if standing.name == reference else "#3b5998" for standing in ordered]
    axes.bar(places, heights, width=0.6, color=colors)
    axes.errorbar(
        places, heights, yerr=[heights - low, high - heights], fmt="none", ecolor="black", capsize=5
    )
    for place, standing in zip(places, ordered, strict=True):
        label = f"{standing.mean:.3f}"
        difference = _difference(standing, baseline)
        if difference is not None:
            label += f"\n({difference:+.3f})"
        axes.annotate(label, (place, standing.interval[1]), (0, 4), textcoords="offset points", ha="center")
    axes.set(title=title, ylabel=f"{MAIN_HEADING} (bars: 95% interval)")
    if len(ordered) > 1:
        axes.set_xlabel(f"in brackets: difference to {reference}")
    axes.set_ylim(0, min(1.25, 1.25 * max(high.max(), 1e-3)))
    axes.set_xticks(places, [textwrap.fill(standing.name, _NAME_WIDTH) for standing in ordered])
    axes.grid(axis="y", alpha=0.3)
    write_atomically(file, to_png(figure))
