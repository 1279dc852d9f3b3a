"""What a run has to say of itself: what it reads, signs of trouble on the way, and the report at its end."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from prorank_jax import __version__
from prorank_jax.config_files import config_to_dict, flatten
from prorank_jax.device_memory import peak_memory
from prorank_jax.flops import measured_matmul_flops
from prorank_jax.learning_signs import signs_of_trouble
from prorank_jax.messages import say
from prorank_jax.metrics_log import METRICS_FILE, read_lines
from prorank_jax.probe import ProbeResult, from_record
from prorank_jax.report import PICTURE_FILE, before_after_table, draw_report, write_report
from prorank_jax.run_diagnosis import conclusion, diagnose, remarks
from prorank_jax.run_facts import DataFacts, RunFacts, data_facts, reading, skipped_updates
from prorank_jax.run_folder import REPORT_FILE, write_text_atomically
from prorank_jax.run_page import PAGE_FILE, render_run_page
from prorank_jax.run_place import RunPlace
from prorank_jax.setup import Run

PROBES_FILE = "probes.jsonl"
SPEEDS = ("measured_steps", "median_prompts_per_second", "median_model_tflops")
MACHINE_FACTS = (
    "matmul_tflops",
    "share_of_matmul_peak",
    "peak_memory_gib",
    "peak_memory_of",
    "devices",
    "prorank_jax",
    "jax",
)


def _probes(folder: Path) -> list[ProbeResult]:
    return [from_record(record) for record in read_lines(folder / PROBES_FILE)]


def signs_so_far(run: Run, folder: Path) -> dict[str, str]:
    """What the files of a run say against it, so far."""
    return signs_of_trouble(read_lines(folder / METRICS_FILE), _probes(folder), run.stage.goals)


def read_report(folder: Path) -> str:
    """The content of report.json as text."""
    return (folder / REPORT_FILE).read_text(encoding="utf-8")


def withdraw_report(place: RunPlace) -> None:
    """Takes away the report of a run that is about to train on; report.json says that its run has ended."""
    place.remove([REPORT_FILE, PICTURE_FILE, PAGE_FILE])


def lacks_probe(folder: Path, step: int) -> bool:
    """Whether the probe of a step is told nowhere."""
    return all(probe.step != step for probe in _probes(folder))


def losses(folder: Path, probes: Sequence[ProbeResult], metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the files of a finished run have lost of what its report tells; [] where they are whole."""
    lost = []
    if probes[0].step:
        lost.append(f"{folder / PROBES_FILE}: lacks the probe of step 0, so nothing is known of before")
    if not metrics:
        lost.append(f"{folder / METRICS_FILE}: holds no step, so nothing is known of the training")
    return lost


def _data_facts(run: Run) -> DataFacts:
    trained = slice(None) if run.stage.trained is None else run.stage.trained
    examples = run.examples
    queries, labels, lengths = (
        numbers[trained] for numbers in (examples.queries, examples.labels, examples.lengths)
    )
    return data_facts(queries, labels, lengths, run.config.data.max_length)


def what_is_read(run: Run) -> str:
    """A line on how much of its data a run reads in all its steps."""
    config = run.config
    return reading(config.stage, config.train.steps, config.train.batch_size, _data_facts(run))


def _run_facts(run: Run, folder: Path) -> RunFacts:
    stage, config = run.stage, run.config
    return RunFacts(
        stage=config.stage,
        metrics=read_lines(folder / METRICS_FILE),
        probes=_probes(folder),
        goals=stage.goals,
        max_grad_norm=config.optimizer.max_grad_norm,
        data=_data_facts(run),
        shows_key_sentences=config.data.excerpts == "key_sentences",
        holds_format=config.ranking.format_coefficient > 0,
        updates_per_step=config.grpo.updates_per_rollout if config.stage == 1 else 1,
        computes_in_float32=config.model.compute_dtype == "float32",
    )


def _written_report(folder: Path) -> dict[str, Any]:
    """What report.json has; empty where there is none or it is damaged: it is about to be written again."""
    try:
        content = json.loads(read_report(folder))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _median(metrics: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return statistics.median(record[name] for record in metrics) if metrics else None


def _speeds(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the steps of one process, if that is known: another one may have had other devices."""
    warm = metrics[1:] or metrics  # the first step compiles
    names = ("prompts_per_second", "model_tflops")
    return {"measured_steps": len(warm), **{f"median_{name}": _median(warm, name) for name in names}}


def _machine_facts(run: Run, model_tflops: float | None, peak_before: int) -> dict[str, Any]:
    """What ran the steps of this process, and how well it was used.

    Args:
        peak_before: the most bytes that the process had taken when the run began.
    """
    peak, peak_of = peak_memory()  # before the large products below, which take memory too
    matmul_tflops = measured_matmul_flops(run.config.model.compute_dtype) / 1e12 * jax.device_count()
    if peak == peak_before:
        peak_of += ", before this run, which took no more"
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    share = None if model_tflops is None else model_tflops / matmul_tflops
    values = (matmul_tflops, share, peak / 2**30, peak_of, devices, __version__, jax.__version__)
    return dict(zip(MACHINE_FACTS, values, strict=True))


def report(run: Run, place: RunPlace, console: Console, made_steps: int, peak_before: int) -> None:
    """Writes and shows the report of a finished run.

    Args:
        made_steps: in this process; 0: it only came back to a run that was finished, whose report stays
            where its files have lost since what it tells, and so does what it says of speeds and devices.
        peak_before: the most bytes that the process had taken when the run began: with `--stage both` those
            of stage 1.
    """
    output_dir = place.folder
    seen = _run_facts(run, output_dir)
    probes, metrics = seen.probes, seen.metrics
    written = {} if made_steps else _written_report(output_dir)
    lost = losses(output_dir, probes, metrics)
    for sentence in lost:
        say(
            console, f"{sentence}; bring the file back from a copy, and repeat the command for a whole report"
        )
    if lost and written:
        say(console, f"{place.holder / REPORT_FILE}: stays as it was")
        return
    findings = diagnose(seen)
    machine = _speeds(metrics[-made_steps:])
    machine |= {name: written[name] for name in (*SPEEDS, *MACHINE_FACTS) if name in written}
    if made_steps:
        machine |= _machine_facts(run, machine["median_model_tflops"], peak_before)
    signs = signs_of_trouble(metrics, probes, run.stage.goals)
    facts = {
        "stage": run.config.stage,
        "model": run.config.model.source,
        "data": run.config.data.source,
        "steps": run.config.train.steps,
        "skipped_updates": skipped_updates(seen),
        "warnings": list(signs.values()),
        "diagnosis": findings,
        "conclusion": conclusion(seen, findings),
        **machine,
    }
    draw_report(output_dir / PICTURE_FILE, probes, metrics, run.stage.curves)
    picture = (output_dir / PICTURE_FILE).read_bytes()
    page = render_run_page(seen, facts, flatten(config_to_dict(run.config)), picture)
    write_text_atomically(output_dir / PAGE_FILE, page)
    write_report(output_dir, probes, metrics, facts)  # last: it says that the run has ended
    place.send()
    console.print(before_after_table(probes))
    for sentence in (conclusion(seen, findings), *findings.values(), *remarks(seen)):
        say(console, sentence)
    say(
        console,
        f"report: {place.holder / PAGE_FILE}, {place.holder / REPORT_FILE}, picture: "
        f"{place.holder / PICTURE_FILE}",
    )
