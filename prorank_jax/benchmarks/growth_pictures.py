"""Growth curves as a picture: time above, memory below, a column for each size that grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prorank_jax.aot.chips import GIB
from prorank_jax.benchmarks.growth_points import AXES, PROGRAMS, Measured
from prorank_jax.evaluation.pictures import new_figure, to_png

TIME, PLANNED, PEAK = "#3b5998", "#2a7f62", "#c0504d"


def draw_curves(measured: Sequence[Measured]) -> bytes:
    """The curves of one program as a PNG; a dotted line is what growth in proportion would be."""
    by_axis: dict[str, list[Measured]] = {}
    for each in measured:
        by_axis.setdefault(each.point.axis, []).append(each)
    figure = new_figure(4.6 * len(by_axis), 6.4)
    figure.suptitle(PROGRAMS[measured[0].point.program])
    rows = figure.subplots(2, len(by_axis), squeeze=False)
    for column, (axis, curve) in enumerate(by_axis.items()):
        _draw_time(rows[0][column], curve)
        _draw_memory(rows[1][column], curve)
        for axes in rows[:, column]:
            _scale(axes, curve, AXES[axis])
    return to_png(figure)


def _scale(axes: Any, curve: Sequence[Measured], name: str) -> None:
    values = [each.point.value for each in curve]
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.set(xlabel=name)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_time(axes: Any, curve: Sequence[Measured]) -> None:
    values = np.array([each.point.value for each in curve], float)
    medians = np.array([each.median for each in curve])
    spread = [[each.median - min(each.seconds), max(each.seconds) - each.median] for each in curve]
    axes.errorbar(values, medians, np.array(spread).T, color=TIME, marker="o", capsize=3, label="measured")
    proportional = medians[0] * values / values[0]
    most = max(max(each.seconds) for each in curve)
    axes.plot(values, proportional, color="grey", linestyle=":", label="in proportion")
    axes.set(ylabel="seconds a step", ylim=(0, min(1.6 * most, max(most, proportional.max()))))


def _draw_memory(axes: Any, curve: Sequence[Measured]) -> None:
    values = [each.point.value for each in curve]
    planned = [each.planned_bytes / GIB for each in curve]
    axes.plot(values, planned, color=PLANNED, marker="o", label="planned by the compiler")
    if all(each.peak_bytes is not None for each in curve):
        peaks = [(each.peak_bytes or 0) / GIB for each in curve]
        axes.plot(values, peaks, color=PEAK, marker="s", label="measured peak")
    axes.set(ylabel="GiB")
