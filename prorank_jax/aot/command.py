"""What `launch/aot_compile.py` does once the environment is set: compile, show, write, advise, search."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
from rich.console import Console

from prorank_jax import __version__
from prorank_jax.aot.advice import advise, as_arguments
from prorank_jax.aot.chips import GIB, Topology
from prorank_jax.aot.compile import compile_report
from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.aot.options import AotOptions
from prorank_jax.aot.report import NOT_A_MEASUREMENT, StepReport, report_table
from prorank_jax.aot.search import Candidate, candidates, search
from prorank_jax.config_files import config_to_dict
from prorank_jax.models.config import ModelConfig
from prorank_jax.run_folder import write_json

EXIT_FITS, EXIT_TOO_LARGE = 0, 1


def run_aot(options: AotOptions, console: Console) -> int:
    """Compiles for each slice; returns 0 if everything fits, else 1.

    Raises:
        ValueError: a model, mesh, batch or slice that cannot work.
    """
    shape = resolve_shape(options.config.model.source)
    reports = []
    recommended: list[dict[str, Any] | None] = []
    for topology in options.topologies:
        if options.search:
            found = _search(options, topology, shape, console)
            recommended.append(found[0].changes if found else None)
            if found:
                reports.append(found[1])
        else:
            reports.append(_compile(options, topology, shape, console))
            console.print(report_table(reports[-1], topology.chip))
    _write(options, reports, recommended)
    everything = len(reports) == len(options.topologies) and all(report.fits for report in reports)
    return EXIT_FITS if everything else EXIT_TOO_LARGE


def _write(options: AotOptions, reports: list[StepReport], recommended: list[dict[str, Any] | None]) -> None:
    if options.output is None:
        return
    content: dict[str, Any] = {
        "note": NOT_A_MEASUREMENT,
        "prorank_jax": __version__,
        "jax": jax.__version__,
        "config": config_to_dict(options.config),
        "reports": [report.to_json() for report in reports],
    }
    if options.search:
        content["recommended"] = recommended
    write_json(options.output, content)


def _compile(options: AotOptions, topology: Topology, shape: ModelConfig, console: Console) -> StepReport:
    with console.status(f"compiling for {topology.name} (about a minute on an idle machine)"):
        report = compile_report(options.config, options.which, topology, shape)
    if report.fits:
        return report
    changes = advise(options.config, options.which, shape, topology.chip, report.mesh, report.needed)
    over = (report.needed - report.capacity) / GIB
    # A refused program may need no more than the chip has: the compiler keeps some for itself.
    said = f"needs {over:.2f} GiB more than there is" if over > 0 else "is refused by the compiler"
    print(f"{topology.name}: the step {said}; what would help, the cheapest first:", file=sys.stderr)
    for _, sentence in changes:
        print(f"  {sentence}", file=sys.stderr)
    return dataclasses.replace(report, advice=tuple(sentence for _, sentence in changes))


def _search(
    options: AotOptions, topology: Topology, shape: ModelConfig, console: Console
) -> tuple[Candidate, StepReport] | None:
    ordered = candidates(options.config, options.which, topology, shape, grow=options.search == "grow")
    console.print(f"{topology.name}: {len(ordered)} settings could fit by estimate; compiling the best few")

    def compile_candidate(config: Any) -> StepReport:
        return compile_report(config, options.which, topology, shape)

    def tell(number: int, most: int, candidate: Candidate, report: StepReport | None) -> None:
        if report is None:
            console.print(f"[{number}/{most} at most] {as_arguments(candidate.changes)}", markup=False)
        elif report.roofline is None:
            console.print(f"    does not fit: {report.needed / GIB:.2f} GiB")
        else:
            verdict = "fits" if report.fits else "does not fit"
            console.print(
                f"    {verdict} in {report.needed / GIB:.2f} GiB; an estimated "
                f"{report.roofline.tokens_per_second:,.0f} tokens/s ({report.roofline.limited_by})"
            )

    found = search(ordered, compile_candidate, tell)
    if found is None:
        print(f"{topology.name}: nothing that was compiled fits; try a smaller batch", file=sys.stderr)
        return None
    console.print(report_table(found[1], topology.chip))
    console.print(f"recommended for {topology.name}:\n{as_arguments(found[0].changes)}", soft_wrap=True)
    return found
