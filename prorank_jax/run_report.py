"""What a run has to say of itself: signs of trouble on the way, and the report at its end."""

from __future__ import annotations

import resource
import statistics
from pathlib import Path

import jax
from rich.console import Console

from prorank_jax import __version__
from prorank_jax.flops import measured_matmul_flops
from prorank_jax.learning_signs import signs_of_trouble
from prorank_jax.metrics_log import METRICS_FILE, read_lines
from prorank_jax.probe import ProbeResult
from prorank_jax.report import PICTURE_FILE, REPORT_FILE, before_after_table, write_report
from prorank_jax.run_place import RunPlace
from prorank_jax.setup import Run

PROBES_FILE = "probes.jsonl"


def signs_so_far(run: Run, folder: Path) -> dict[str, str]:
    """What the files of a run say against it, so far."""
    stage = run.stage
    probes = [ProbeResult(**record) for record in read_lines(folder / PROBES_FILE)]
    return signs_of_trouble(read_lines(folder / METRICS_FILE), probes, stage.learned, stage.held_out)


def read_report(folder: Path) -> str:
    """The content of report.json as text."""
    return (folder / REPORT_FILE).read_text(encoding="utf-8")


def report(run: Run, place: RunPlace, console: Console) -> None:
    """Writes and shows the report of a finished run."""
    output_dir = place.folder
    probes = [ProbeResult(**record) for record in read_lines(output_dir / PROBES_FILE)]
    metrics = read_lines(output_dir / METRICS_FILE)
    signs = signs_of_trouble(metrics, probes, run.stage.learned, run.stage.held_out)
    warm = metrics[1:] or metrics  # the first step compiles
    model_tflops = statistics.median(record["model_tflops"] for record in warm)
    matmul_tflops = measured_matmul_flops(run.config.model.compute_dtype) / 1e12 * jax.device_count()
    device = jax.devices()[0]
    facts = {
        "stage": run.config.stage,
        "model": run.config.model.source,
        "data": run.config.data.source,
        "steps": run.config.train.steps,
        "median_prompts_per_second": statistics.median(record["prompts_per_second"] for record in warm),
        "median_model_tflops": model_tflops,
        "matmul_tflops": matmul_tflops,
        "share_of_matmul_peak": model_tflops / matmul_tflops,
        "skipped_updates": sum(record["skipped"] for record in metrics),
        "warnings": list(signs.values()),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "prorank_jax": __version__,
        "jax": jax.__version__,
    }
    write_report(output_dir, probes, metrics, facts, run.stage.curves)
    place.send()
    console.print(before_after_table(probes))
    console.print(f"report: {place.holder / REPORT_FILE}, picture: {place.holder / PICTURE_FILE}")
