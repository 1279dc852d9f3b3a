"""What growth curves are told as: JSON, pictures, a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from prorank_jax.aot.chips import GIB
from prorank_jax.benchmarks.growth_pictures import draw_curves
from prorank_jax.benchmarks.growth_points import AXES, GROUP, PROGRAMS, Measured

GROWTH_FROM, GROWTH_TO = 1, 32  # completions of a prompt that stage 1's time is compared at


def show(measured: Sequence[Measured], console: Console) -> None:
    """Prints the table of all points, and how stage 1 grows with its completions."""
    console.print(curve_table(measured))
    growth = group_growth(measured)
    if growth is not None:
        console.print(
            f"stage 1, from {GROWTH_FROM} completion to {GROWTH_TO}: {growth - 1:+.1%} time", highlight=False
        )


def write_picture(folder: Path, curves: Sequence[Measured]) -> None:
    """Writes the picture of one program's curves."""
    name = PROGRAMS[curves[0].point.program].replace(" ", "")
    (folder / f"growth_{name}.png").write_bytes(draw_curves(curves))


def group_growth(measured: Sequence[Measured]) -> float | None:
    """Stage 1's time with many completions over that with one; None where that was not measured."""
    by_group = {
        each.point.value: each.median
        for each in measured
        if (each.point.program, each.point.axis) == ("1", GROUP)
    }
    if not {GROWTH_FROM, GROWTH_TO} <= set(by_group):
        return None
    return by_group[GROWTH_TO] / by_group[GROWTH_FROM]


def as_json(measured: Sequence[Measured], options: Mapping[str, Any], *, is_complete: bool) -> dict[str, Any]:
    """All points with their rounds; seconds and bytes.

    Args:
        is_complete: whether all was measured that was asked for.
    """
    return {
        "complete": is_complete,
        "options": dict(options),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "stage1_time_32_completions_over_1": group_growth(measured),
        "points": [
            {
                "program": PROGRAMS[each.point.program],
                "axis": each.point.axis,
                "value": each.point.value,
                "size": dataclasses.asdict(each.point.size),
                "seconds": {"median": each.median, "min": min(each.seconds), "max": max(each.seconds)},
                "rounds": list(each.seconds),
                "planned_bytes": each.planned_bytes,
                "peak_bytes": each.peak_bytes,
            }
            for each in measured
        ],
    }


def _spread(counts: Sequence[int]) -> str:
    """One number where all are alike, else from which to which."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def curve_table(measured: Sequence[Measured]) -> Table:
    """All points, one a row."""
    table = Table(title=f"{_spread([len(each.seconds) for each in measured])} rounds of each point, medians")
    for heading in ("step", "what grows", "to", "s a step", "min to max", "planned GiB", "peak GiB"):
        table.add_column(heading, justify="left" if heading in ("step", "what grows") else "right")
    for each in measured:
        point, peak = each.point, each.peak_bytes
        table.add_row(
            PROGRAMS[point.program],
            AXES[point.axis],
            str(point.value),
            f"{each.median:.3g}",
            f"{min(each.seconds):.3g} to {max(each.seconds):.3g}",
            f"{each.planned_bytes / GIB:.2f}",
            "" if peak is None else f"{peak / GIB:.2f}",
        )
    return table
