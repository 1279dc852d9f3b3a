"""What is known of a compiled step, as JSON and as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from prorank_jax.aot.chips import GIB, Chip
from prorank_jax.aot.memory import Memory
from prorank_jax.aot.roofline import Roofline

NOT_A_MEASUREMENT = (
    "The times are estimates, neither measurements nor bounds: what was counted in the compiled step over "
    "published peaks, every roof perfectly used and everything overlapped."
)


@dataclass(frozen=True)
class StepReport:
    """One step compiled for one slice.

    Attributes:
        step: `1`, `2` or `score`.
        chips: of the slice.
        prompts: of one step.
        devices_per_chip: what jax shows of a chip; `memory` and `*_bytes` are of one device.
        capacity: HBM bytes of a device.
        memory: None where the compiler refused; then `needed` is from its refusal.
        needed: bytes at the peak.
        executed_flops: None where the compiler refused, as all that follows.
        sent_bytes: by kind of collective.
        unknown_loops: loops counted once because their length could not be read.
    """

    topology: str
    step: str
    model: str
    shape: str
    mesh: dict[str, int]
    settings: dict[str, Any]
    chips: int
    devices_per_chip: int
    parameters: int
    prompts: int
    compile_seconds: float
    capacity: int
    needed: int
    fits: bool
    memory: Memory | None
    model_flops: int
    executed_flops: int | None
    hbm_bytes: float | None
    sent_bytes: dict[str, float] | None
    unknown_loops: tuple[str, ...]
    roofline: Roofline | None
    advice: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def report_rows(report: StepReport) -> list[tuple[str, str]]:
    """What there is to say of a report: name and value."""
    rows = [
        ("batch", report.shape),
        ("mesh", " x ".join(f"{name} {size}" for name, size in report.mesh.items())),
        ("settings", ", ".join(f"{name} {value}" for name, value in report.settings.items())),
        ("parameters", f"{report.parameters / 1e6:.1f} M"),
        ("compiled in", f"{report.compile_seconds:.0f} s"),
    ]
    rows += _memory_rows(report)
    rows.append(("model FLOPs a step", f"{report.model_flops / 1e12:.1f} TFLOP"))
    if report.roofline is None or report.executed_flops is None or report.hbm_bytes is None:
        return rows
    useful = report.model_flops / report.executed_flops
    rows += [
        (
            "executed FLOPs a step",
            f"{report.executed_flops / 1e12:.1f} TFLOP ({_percent(useful)} are model FLOPs)",
        ),
        ("HBM traffic a device", f"{report.hbm_bytes / 1e9:.2f} GB"),
        *(
            (f"{kind} a device", f"{sent / 1e6:.1f} MB sent")
            for kind, sent in (report.sent_bytes or {}).items()
        ),
    ]
    if report.unknown_loops:
        rows.append(("loops of unknown length", ", ".join(report.unknown_loops)))
    return rows + _roofline_rows(report.roofline)


def _memory_rows(report: StepReport) -> list[tuple[str, str]]:
    verdict = "fits" if report.fits else "DOES NOT FIT"
    capacity = f"of {_gib(report.capacity)}: {verdict}"
    if report.memory is None:
        return [("HBM a device", f"at least {_gib(report.needed)} {capacity} (the compiler's refusal)")]
    memory = report.memory
    return [
        ("HBM a device", f"{_gib(memory.peak)} {capacity} ({memory.peak_is})"),
        ("  arguments", _gib(memory.arguments)),
        ("  outputs not in their place", _gib(memory.outputs)),
        ("  temporaries", _gib(memory.temporaries)),
        ("  program", _gib(memory.code)),
    ]


def _roofline_rows(roofline: Roofline) -> list[tuple[str, str]]:
    links = "not published" if roofline.interconnect is None else f"{roofline.interconnect * 1e3:.1f} ms"
    return [
        (
            "estimate: compute / HBM / links",
            f"{roofline.compute * 1e3:.1f} ms / {roofline.hbm * 1e3:.1f} ms / {links}",
        ),
        ("estimate: time a step", f"{roofline.seconds * 1e3:.1f} ms, limited by {roofline.limited_by}"),
        ("estimate: throughput", f"{roofline.tokens_per_second:,.0f} tokens/s"),
        ("estimate: MFU", _percent(roofline.mfu)),
    ]


def step_title(step: str) -> str:
    """What a step is called in a heading."""
    return "scoring" if step == "score" else f"stage {step}"


def report_table(report: StepReport, chip: Chip) -> Table:
    """The table for a console; its caption says what the figures are not."""
    title = f"{step_title(report.step)} on {report.topology} ({report.chips} chips): {report.model}"
    caption = f"Peaks: {chip.source}. {NOT_A_MEASUREMENT}{_of_gpus(chip)}"
    table = Table(title=title, caption=caption, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in report_rows(report):
        table.add_row(name, value)
    return table


def _of_gpus(chip: Chip) -> str:
    if chip.platform != "cuda":
        return ""
    return (
        f" The capacity is the {chip.taken_share:.0%} that jax takes of a GPU ahead; "
        "XLA_PYTHON_CLIENT_MEM_FRACTION changes it. Kernels are chosen without trying them out, which a GPU "
        "would do."
    )


_COLUMNS = (
    "config",
    "slice",
    "step",
    "batch",
    "HBM a device",
    "model / executed FLOPs",
    "compute / HBM / links (ms)",
    "limited by",
    "tokens/s",
    "MFU",
)


def markdown_table(reports: Sequence[tuple[str, StepReport]]) -> str:
    """One line for each named report, under a sentence that says what the figures are."""
    lines = [NOT_A_MEASUREMENT, "", f"| {' | '.join(_COLUMNS)} |", "|" + " --- |" * len(_COLUMNS)]
    lines += [f"| {' | '.join(_markdown_row(name, report))} |" for name, report in reports]
    return "\n".join(lines) + "\n"


def _markdown_row(name: str, report: StepReport) -> list[str]:
    memory = f"{report.needed / GIB:.1f} of {report.capacity / GIB:.0f} GiB"
    row = [name, report.topology, step_title(report.step), report.shape, memory]
    roofline = report.roofline
    if roofline is None or not report.executed_flops:
        return [*row, "", "", "does not fit", "", ""]
    links = "?" if roofline.interconnect is None else f"{roofline.interconnect * 1e3:.0f}"
    return [
        *row,
        _percent(report.model_flops / report.executed_flops),
        f"{roofline.compute * 1e3:.0f} / {roofline.hbm * 1e3:.0f} / {links}",
        roofline.limited_by,
        f"{roofline.tokens_per_second:,.0f}",
        _percent(roofline.mfu),
    ]
