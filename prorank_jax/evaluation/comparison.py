"""Several systems on the same queries: one table and one picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from prorank_jax.evaluation.pictures import new_figure, to_png
from prorank_jax.evaluation.significance import bootstrap_interval, compare
from prorank_jax.evaluation.tables import MAIN_HEADING, format_p

# system → query id → nDCG@10, the baseline first
Systems = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Standing:
    """One system among several.

    Attributes:
        name: of the system.
        mean: of nDCG@10 over the queries.
        interval: 95% bootstrap interval of the mean.
        delta: difference to the first system; None for that one.
        p_value: of that difference; None for that one.
    """

    name: str
    mean: float
    interval: tuple[float, float]
    delta: float | None = None
    p_value: float | None = None


def standings(systems: Systems) -> list[Standing]:
    """Each system's mean and interval, and its difference to the first one.

    Raises:
        ValueError: no system, or systems measured on different queries.
    """
    if not systems:
        raise ValueError("standings: no system to compare; give at least one")
    baseline = next(iter(systems))
    result = []
    for name, values in systems.items():
        against = compare(values, systems[baseline])
        column = np.array(list(values.values()))
        standing = Standing(name, float(column.mean()), bootstrap_interval(column))
        if name != baseline:
            standing = Standing(name, standing.mean, standing.interval, against.delta, against.p_value)
        result.append(standing)
    return result


def comparison_table(title: str, ordered: Sequence[Standing]) -> Table:
    """A row for each system; differences and their p-values are to the first one."""
    table = Table(title=Text(title))
    table.add_column("system")
    for heading in (MAIN_HEADING, "95% interval", f"to {ordered[0].name}", "p"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for standing in ordered:
        low, high = standing.interval
        table.add_row(
            Text(standing.name),
            f"{standing.mean:.3f}",
            f"{low:.3f} to {high:.3f}",
            "" if standing.delta is None else f"{standing.delta:+.3f}",
            "" if standing.p_value is None else format_p(standing.p_value),
        )
    return table


def draw_comparison(file: Path, title: str, ordered: Sequence[Standing]) -> None:
    """A PNG with one bar for each system and its 95% bootstrap interval."""
    figure = new_figure(max(5.0, 1.5 + 1.6 * len(ordered)), 4.2)
    axes = figure.subplots()
    places = np.arange(len(ordered))
    heights = np.array([standing.mean for standing in ordered])
    low, high = np.array([standing.interval for standing in ordered]).T
    axes.bar(places, heights, width=0.6, color=["#9a9a9a", *["#3b5998"] * (len(ordered) - 1)])
    axes.errorbar(
        places, heights, yerr=[heights - low, high - heights], fmt="none", ecolor="black", capsize=5
    )
    for place, standing in zip(places, ordered, strict=True):
        label = f"{standing.mean:.3f}"
        if standing.delta is not None:
            label += f"\n({standing.delta:+.3f})"
        axes.annotate(label, (place, standing.interval[1]), (0, 4), textcoords="offset points", ha="center")
    axes.set(title=title, ylabel=f"{MAIN_HEADING} (bars: 95% interval)")
    axes.set_ylim(0, min(1.25, 1.25 * max(high.max(), 1e-3)))
    axes.set_xticks(places, [standing.name for standing in ordered])
    axes.grid(axis="y", alpha=0.3)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_bytes(to_png(figure))
    temporary.replace(file)
