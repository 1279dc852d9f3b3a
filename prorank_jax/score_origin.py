"""Which code and devices gave the scores of an evaluation, and what is said where they were others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax

from prorank_jax import __version__
from prorank_jax.evaluation.score_log import QueryScores, scored_by
from prorank_jax.processes import code_digest


def this_code_and_devices() -> str:
    """What rounds a score, beside the settings of an evaluation."""
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"prorank-jax {__version__} ({code_digest()}), jax {jax.__version__}, {devices}"


def told_of_others(name: str, scores: Mapping[str, QueryScores], here: str) -> Iterator[str]:
    """A line for all scores that others gave: they are kept, and whoever compares them must know.

    Args:
        name: of the dataset.
        scores: query id → what is known of its candidates.
        here: what gives scores now, see `this_code_and_devices`.
    """
    for origin, queries in scored_by(scores).items():
        if origin != here:
            yield (
                f"{name}: {queries} of {len(scores)} queries were scored before, by "
                f"{origin or 'an earlier version'}, and not by {here}; another output_dir scores them anew"
            )
