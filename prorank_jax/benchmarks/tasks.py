"""The tasks of `launch/benchmark.py`: each with its peers, its options and the writer of its work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prorank_jax.benchmarks import grpo_work, ranking_work, scoring_work
from prorank_jax.benchmarks.options import BenchmarkOptions


@dataclass(frozen=True)
class Task:
    """One comparison.

    The sides are the programs `ours_TASK.py` and `PEER_TASK.py` of launch/peers, with `_` for `-`.

    Attributes:
        unit: what a round does, in the plural.
        peers: the other sides there are; the first is the default.
        dataset: where its texts come from unless told otherwise.
        add_options: adds the options that only this task has.
        size_from: reads those; raises a ValueError where they cannot work.
        write: writes the model and `work.json` into a folder and returns the settings.
        summarized: which of the settings the result names, where they are there.
        tolerance: of the check, for each dtype; see `agreement.compare_values`.
    """

    unit: str
    peers: tuple[str, ...]
    dataset: str
    add_options: Callable[[argparse.ArgumentParser], None]
    size_from: Callable[[argparse.Namespace], Any]
    write: Callable[[BenchmarkOptions, Any, Path], dict[str, Any]]
    summarized: tuple[str, ...]
    tolerance: dict[str, float]


TASKS = {
    "grpo": Task(
        unit="prompts",
        peers=("trl", "tunix"),
        dataset="demo:train",
        add_options=grpo_work.add_options,
        size_from=grpo_work.work_from,
        write=grpo_work.write_grpo_work,
        summarized=(
            "prompts_per_step",
            "group_size",
            "new_tokens",
            "width",
            "kl_coefficient",
            "peer_batch",
            "peer_batch_seconds",
        ),
        tolerance={"float32": 1e-3, "bfloat16": 5e-2},
    ),
    "ranking": Task(
        unit="lists",
        peers=("sentence-transformers",),
        dataset="demo:train",
        add_options=ranking_work.add_options,
        size_from=ranking_work.work_from,
        write=ranking_work.write_ranking_work,
        summarized=("lists_per_step", "list_size", "steps", "tokens"),
        tolerance={"float32": 1e-3, "bfloat16": 5e-2},
    ),
    "scoring": Task(
        unit="pairs",
        peers=("mxbai", "sentence-transformers"),
        dataset="demo",
        add_options=scoring_work.add_options,
        size_from=scoring_work.work_from,
        write=scoring_work.write_scoring_work,
        summarized=("queries", "top_k", "scored_pairs", "tokens", "longest"),
        tolerance={"float32": 1e-3, "bfloat16": 2e-1},
    ),
}
