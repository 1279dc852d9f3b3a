"""Command lines of comparisons."""

from __future__ import annotations

from typing import Any

from prorank_jax.benchmarks.command import comparison_from, parse_arguments
from prorank_jax.benchmarks.options import BenchmarkOptions


def comparison(line: str) -> tuple[str, BenchmarkOptions, Any]:
    """The task, its shared options and its own of a command line without quotes."""
    return comparison_from(parse_arguments(line.split()))
