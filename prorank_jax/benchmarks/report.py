"""The result of a benchmark: its JSON and its table."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from prorank_jax.aot.chips import GIB
from prorank_jax.benchmarks.agreement import Agreement
from prorank_jax.benchmarks.rounds import Ratio, Round, median_speed, speed_ratio


@dataclass(frozen=True)
class SideResult:
    """What one side did: its facts, its compile time in seconds, and its measured rounds."""

    name: str
    facts: Mapping[str, Any]
    compile_seconds: float
    rounds: Sequence[Round] = field(repr=False)

    @property
    def seconds(self) -> float:
        """The median of a round."""
        return statistics.median(done.seconds for done in self.rounds)

    @property
    def peak_share(self) -> float | None:
        """Share of the measured matrix-product peak in the median round, by `flops`; None: not known."""
        flops, peak = self.facts.get("flops_per_round"), self.facts.get("peak_flops")
        return flops / self.seconds / peak if flops and peak else None

    @property
    def peak_bytes(self) -> int | None:
        """The most memory so far after the last round."""
        known = [done.peak_bytes for done in self.rounds if done.peak_bytes is not None]
        return max(known) if known else None


@dataclass(frozen=True)
class BenchmarkResult:
    """Two sides that did the same work.

    Attributes:
        task: grpo, ranking or scoring.
        unit: what a round does, in the plural.
        work: the settings both sides share, without texts.
        agreement: of the two sides.
        own: of our timed program with a plain computation, where the sides' values are of another program.
    """

    task: str
    unit: str
    work: Mapping[str, Any]
    ours: SideResult
    peer: SideResult
    agreement: Agreement
    own: Agreement | None = None

    @property
    def ratio(self) -> Ratio:
        """Our speed over the peer's."""
        return speed_ratio(self.ours.rounds, self.peer.rounds)


def as_json(result: BenchmarkResult) -> dict[str, Any]:
    """The result for a JSON file: seconds, bytes, and units per second."""
    return {
        "task": result.task,
        "peer": result.peer.name,
        "unit": result.unit,
        "work": dict(result.work),
        "ratio": dataclasses.asdict(result.ratio),
        "check": dataclasses.asdict(result.agreement),
        "own_check": None if result.own is None else dataclasses.asdict(result.own),
        "sides": {side.name: _side_json(side) for side in (result.ours, result.peer)},
    }


def _side_json(side: SideResult) -> dict[str, Any]:
    return {
        "facts": dict(side.facts),
        "compile_seconds": side.compile_seconds,
        "seconds": side.seconds,
        "units_per_second": median_speed(side.rounds),
        "share_of_peak": side.peak_share,
        "peak_bytes": side.peak_bytes,
        "rounds": [dataclasses.asdict(done) for done in side.rounds],
    }


def result_table(result: BenchmarkResult) -> Table:
    """Both sides, one a row."""
    table = Table(title=f"{result.task}: medians, rounds of each side: {len(result.ours.rounds)}")
    for heading in ("", f"{result.unit}/s", "s a round", "compile s", "memory GiB", "of peak"):
        table.add_column(heading, justify="right" if heading else "left")
    for side in (result.ours, result.peer):
        memory, share = side.peak_bytes, side.peak_share
        table.add_row(
            side.name,
            f"{median_speed(side.rounds):.3g}",
            f"{side.seconds:.3g}",
            f"{side.compile_seconds:.3g}",
            "" if memory is None else f"{memory / GIB:.2f}",
            "" if share is None else f"{share:.0%} of {side.facts['peak_flops'] / 1e9:,.0f} GFLOP/s",
        )
    return table


def verdict(result: BenchmarkResult) -> str:
    """The ratio with its spread, and how far the checked values are apart."""
    ratio, checked, own = result.ratio, result.agreement, result.own
    besides = f"; our timed step's {own.values} at most {own.largest_difference:.1e}" if own else ""
    return (
        f"{result.ours.name} ÷ {result.peer.name}: {ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f}) "
        f"in {result.unit}/s; {checked.values} checked values at most {checked.largest_difference:.1e} apart"
        f"{besides}"
    )
