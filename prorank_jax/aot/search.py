"""Looks for the fastest settings that fit, compiling as few programs as possible.

All combinations of mesh, remat policy, attention, accumulation and (where asked for) batch size are put in
order by the rough model of `estimate`; only the best few are compiled, and the compiler has the last word on
memory. What decides between those that fit is their roofline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prorank_jax.aot.advice import ATTENTION, divides_the_model, with_changes
from prorank_jax.aot.chips import Topology
from prorank_jax.aot.estimate import Estimate, estimate_step
from prorank_jax.aot.report import StepReport
from prorank_jax.config import REMAT_POLICIES, RunConfig
from prorank_jax.models.config import ModelConfig

MOST_COMPILED = 6
# The rough model may be wrong by this factor before it hides something that fits.
MEMORY_DOUBT = 1.3
_ACCUMULATIONS = (1, 2, 4, 8)
_GROWTH = (1, 2, 4, 8)

Compile = Callable[[RunConfig], StepReport]


@dataclass(frozen=True)
class Candidate:
    """Settings that might do.

    Attributes:
        changes: of the config they were made from, with dotted names.
    """

    config: RunConfig
    changes: dict[str, Any]
    estimate: Estimate

    @property
    def seconds_per_row(self) -> float:
        return self.estimate.seconds / self.config.train.batch_size


def mesh_shapes(devices: int, shape: ModelConfig) -> Iterator[dict[str, int]]:
    """All meshes of so many devices over which the model splits evenly."""
    for fsdp, tensor in itertools.product(range(1, devices + 1), repeat=2):
        if devices % (fsdp * tensor) == 0 and divides_the_model(shape, fsdp, tensor):
            yield {"data": devices // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor}


def candidates(
    config: RunConfig, which: str, topology: Topology, shape: ModelConfig, *, grow: bool
) -> list[Candidate]:
    """All settings that could work, the most promising first; those far too large are left out.

    Args:
        which: `1` or `2`.
        grow: also try larger batches.
    """
    chip = topology.chip
    capacity = chip.device_bytes * MEMORY_DOUBT
    batches = [config.train.batch_size * times for times in (_GROWTH if grow else (1,))]
    found = []
    for mesh, batch, remat, attention, parts in itertools.product(
        mesh_shapes(topology.devices, shape),
        batches,
        REMAT_POLICIES,
        ATTENTION[chip.platform],
        _ACCUMULATIONS,
    ):
        if batch % (parts * mesh["data"] * mesh["fsdp"]):
            continue
        changes = {f"mesh.{name}": size for name, size in mesh.items()} | {
            "train.batch_size": batch,
            "train.accumulation": parts,
            "model.remat": remat,
            "model.attention": attention,
        }
        changed = with_changes(config, changes)
        if changed is None:
            continue
        estimate = estimate_step(changed, which, shape, chip, mesh)
        if estimate.bytes <= capacity:
            found.append(Candidate(changed, changes, estimate))
    return sorted(found, key=lambda each: (each.seconds_per_row, each.estimate.bytes))


def search(
    ordered: list[Candidate],
    compile_candidate: Compile,
    on_progress: Callable[[int, int, Candidate, StepReport | None], None] = lambda *_: None,
    most_compiled: int = MOST_COMPILED,
) -> tuple[Candidate, StepReport] | None:
    """The fastest that fits among the most promising candidates; None if none of those fits.

    Stops when no candidate that is left promises more than the best one's roofline. After one that does not
    fit, those that are estimated to need as much are skipped.

    Args:
        ordered: as `candidates` gives them.
        compile_candidate: compiles one.
        on_progress: told before (report None) and after each: number, how many there may be, candidate.
    """
    best: tuple[Candidate, StepReport] | None = None
    too_large = float("inf")
    compiled = 0
    for candidate in ordered:
        if compiled == most_compiled:
            break
        if (
            best
            and best[1].roofline
            and 1 / best[1].roofline.prompts_per_second <= _promised(candidate, best)
        ):
            break
        if candidate.estimate.bytes >= too_large:
            continue
        compiled += 1
        on_progress(compiled, most_compiled, candidate, None)
        report = compile_candidate(candidate.config)
        on_progress(compiled, most_compiled, candidate, report)
        if not report.fits or report.roofline is None:
            too_large = candidate.estimate.bytes
        elif best is None or _rate(report) > _rate(best[1]):
            best = candidate, report
    return best


def _promised(candidate: Candidate, best: tuple[Candidate, StepReport]) -> float:
    """Seconds a prompt that a candidate's estimate promises."""
    prompts_per_row = best[1].prompts / best[0].config.train.batch_size
    return candidate.seconds_per_row / prompts_per_row


def _rate(report: StepReport) -> float:
    return report.roofline.prompts_per_second if report.roofline else 0.0
