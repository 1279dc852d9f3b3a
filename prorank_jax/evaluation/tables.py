"""Results as tables for the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from prorank_jax.evaluation.first_stage import BM25
from prorank_jax.evaluation.metrics import MAIN_METRIC

MAIN_HEADING = "nDCG@10"


def format_p(p_value: float, decimals: int = 3) -> str:
    """So many decimals, or that it is smaller than the last of them can say."""
    least = 10**-decimals
    return f"<{least:.{decimals}f}" if p_value < least else f"{p_value:.{decimals}f}"


def format_interval(interval: tuple[float, float] | list[float]) -> str:
    """`+0.012 to +0.034`."""
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def format_speed(speed: float | None) -> str:
    """Pairs a second, or a dash where nothing was scored."""
    return "-" if speed is None else f"{speed:.1f}"


def results_table(content: Mapping[str, Any]) -> Table:
    """BEIR's table: a row for each dataset of metrics.json and one for its fusion, then the average."""
    table = Table(
        title=Text(f"{MAIN_HEADING}: {content['model']} on the first stage's best {content['top_k']}"),
        box=SIMPLE_HEAD,
    )
    table.add_column("dataset", overflow="fold")
    is_bm25 = all(entry.get("first_stage_name") == BM25 for entry in content["datasets"].values())
    for heading in ("BM25" if is_bm25 else "first stage", "reranked", "delta", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("95% interval", justify="right", no_wrap=True)
    for name, entry in content["datasets"].items():
        table.add_row(
            Text(name),
            f"{entry['first_stage'][MAIN_METRIC]:.3f}",
            f"{entry['reranked'][MAIN_METRIC]:.3f}",
            f"{entry['delta']:+.3f}",
            format_p(entry["p_value"]),
            format_interval(entry["interval"]),
        )
        if "fusion" in entry:
            over = entry["fusion"]["over_first_stage"]
            table.add_row(
                Text(f"{name}, fused"),
                f"{entry['first_stage'][MAIN_METRIC]:.3f}",
                f"{entry['fusion']['metrics'][MAIN_METRIC]:.3f}",
                f"{over['delta']:+.3f}",
                format_p(over["p_value"]),
                format_interval(over["interval"]),
            )
    if "average" in content:
        table.add_section()
        if mixed := content["average"].get("mixed"):
            table.caption = Text(f"average: {'; '.join(mixed)}")
        table.add_row(
            "average",
            f"{content['average']['first_stage'][MAIN_METRIC]:.3f}",
            f"{content['average']['reranked'][MAIN_METRIC]:.3f}",
            f"{content['average']['delta']:+.3f}",
            *[""] * 2,
        )
        if "fused" in content["average"]:
            before, fused = (content["average"][part][MAIN_METRIC] for part in ("first_stage", "fused"))
            table.add_row(
                "average, fused", f"{before:.3f}", f"{fused:.3f}", f"{fused - before:+.3f}", *[""] * 2
            )
    return table
