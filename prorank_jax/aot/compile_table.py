"""Compiles every config that names its slice or GPU in its file name, and writes one table of what they need.

A figure is kept as long as config, package and compiler are the same: the command goes on where it stopped,
and after a change compiles what the change may have touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from prorank_jax.aot.chips import accelerator_of, parse_topology
from prorank_jax.aot.compile import compile_report
from prorank_jax.aot.memory import Memory
from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.aot.report import StepReport, markdown_table
from prorank_jax.aot.roofline import Roofline
from prorank_jax.config_files import load_config
from prorank_jax.processes import code_digest
from prorank_jax.run_folder import write_json, write_text_atomically

TABLE_JSON, TABLE_MARKDOWN = "table.json", "table.md"
STAGES = ("1", "2")


def fingerprint(config_file: Path) -> str:
    """A hash of all that decides a report: the config, the package, jax and the compilers."""
    digest = hashlib.sha256(config_file.read_bytes() + code_digest().encode())
    for package in ("jax", "libtpu", "jax-cuda13-pjrt"):
        try:
            digest.update(version(package).encode())
        except PackageNotFoundError:
            digest.update(b"unknown")
    return digest.hexdigest()[:16]


def report_from_json(values: dict[str, Any]) -> StepReport:
    """The inverse of `StepReport.to_json`."""
    memory, roofline = values["memory"], values["roofline"]
    nested = {
        "memory": Memory(**memory) if memory else None,
        "roofline": Roofline(**roofline) if roofline else None,
        "unknown_loops": tuple(values["unknown_loops"]),
        "advice": tuple(values["advice"]),
    }
    return StepReport(**(values | nested))


def compile_config(config_file: Path, stage: str) -> StepReport:
    """Compiles one stage of a config for the slice in its name."""
    config = load_config(config_file, {"stage": int(stage)})
    topology = parse_topology(accelerator_of(config_file))
    return compile_report(config, stage, topology, resolve_shape(config.model.source))


def compile_all(
    config_files: Sequence[Path],
    output_dir: Path,
    console: Console,
    compile_one: Callable[[Path, str], StepReport] = compile_config,
) -> bool:
    """Compiles both stages of each config and writes the table anew after each; returns whether all fit.

    Raises:
        ValueError: a config that cannot work, or whose name says no slice.
    """
    for file in config_files:
        accelerator_of(file)
    output_dir.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, StepReport]] = []
    jobs = [(file, stage) for file in config_files for stage in STAGES]
    for number, (file, stage) in enumerate(jobs, start=1):
        report = _stored_or_compiled(file, stage, output_dir, compile_one)
        verdict = "fits" if report.fits else "DOES NOT FIT"
        console.print(f"[{number}/{len(jobs)}] {file.stem}, stage {stage}: {verdict}", markup=False)
        found.append((file.stem, report))
        _write_table(found, output_dir)
    return all(report.fits for _, report in found)


def _stored_or_compiled(
    file: Path, stage: str, output_dir: Path, compile_one: Callable[[Path, str], StepReport]
) -> StepReport:
    stored, current = output_dir / f"{file.stem}_stage{stage}.json", fingerprint(file)
    if stored.is_file():
        content = json.loads(stored.read_text(encoding="utf-8"))
        if content["fingerprint"] == current:
            return report_from_json(content["report"])
    report = compile_one(file, stage)
    write_json(stored, {"fingerprint": current, "report": report.to_json()})
    return report


def _write_table(found: Sequence[tuple[str, StepReport]], output_dir: Path) -> None:
    write_json(output_dir / TABLE_JSON, [{"config": name} | report.to_json() for name, report in found])
    write_text_atomically(output_dir / TABLE_MARKDOWN, markdown_table(found))
