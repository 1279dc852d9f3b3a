"""Does the work of an ablation, one process after the other, and writes what came of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from prorank_jax.config_files import config_to_dict
from prorank_jax.evaluation.metrics import MAIN_METRIC, require_ranx
from prorank_jax.messages import say
from prorank_jax.metrics_log import METRICS_FILE as STEPS_FILE
from prorank_jax.metrics_log import read_lines
from prorank_jax.reproduce.children import run_launcher
from prorank_jax.reproduce.options import ReproduceOptions
from prorank_jax.reproduce.pictures import Curves, draw_ablation, draw_learning
from prorank_jax.reproduce.place import (
    as_named_before,
    begins_fingerprint,
    check_folder,
    check_recipes,
    check_runs,
    check_training,
    claim_folder,
    is_claimed,
    seeds_there,
    shared_settings,
)
from prorank_jax.reproduce.plan import TRAIN, Entry, Job, Plan
from prorank_jax.reproduce.results import ablation_content, read_measured
from prorank_jax.reproduce.rows import BOTH, ROWS, TRAINED
from prorank_jax.reproduce.shown import training_overlap
from prorank_jax.reproduce.tables import ablation_markdown
from prorank_jax.run_folder import (
    REPORT_FILE,
    only_run_in,
    write_atomically,
    write_config,
    write_json,
    write_text_atomically,
)
from prorank_jax.run_report import PROBES_FILE

ABLATION_JSON, ABLATION_TABLE, ABLATION_PICTURE = "ablation.json", "ablation.md", "ablation.png"
LEARNING_PICTURE = "learning.png"
EXPORT_FOLDER = "export"
NO_FINGERPRINT = (
    "does not say which files its model had (an earlier version made it), so whether --model has changed "
    "since is not known; from now on a change is refused"
)

RunLauncher = Callable[[str, Sequence[str]], None]


def reproduce(
    options: ReproduceOptions, console: Console | None = None, run: RunLauncher = run_launcher
) -> dict[str, Any]:
    """Does what is missing of an ablation; returns the content of ablation.json.

    The table is written anew after each model, so that a stop leaves one; the pictures come at the end.

    Args:
        run: runs a file of launch/ with arguments to its end.

    Raises:
        ValueError: bad input, a folder or runs of another ablation, or a launcher that failed.
        Interrupted, KeyboardInterrupt: SIGTERM or Ctrl-C; the same call goes on from there.
    """
    console = console or Console()
    require_ranx()
    options = as_named_before(options)
    plan, settings = Plan(options), shared_settings(options)
    check_folder(options.output_dir, settings)
    # The table is of all that the folder holds, not of this command's seeds alone.
    whole = Plan(dataclasses.replace(options, seeds=seeds_there(options)))
    check_runs(whole)
    check_training(options)
    if not is_claimed(options.output_dir):
        check_recipes(options)  # or the corrected command would find the folder of another ablation
    with only_run_in(options.output_dir):
        if begins_fingerprint(options.output_dir, settings):
            say(console, f"{options.output_dir}: {NO_FINGERPRINT}")
        claim_folder(options.output_dir, settings)
        entries, commands = plan.entries(options.only), earlier_commands(options.output_dir)
        for number, entry in enumerate(entries, start=1):
            jobs = plan.jobs(entry)
            say(console, f"[{number}/{len(entries)}] {entry.title}: {_outlook(entry, jobs)}")
            adds_a_row = not all(job.is_done for job in jobs)
            for job in jobs:
                if job.kind == TRAIN and job.entry.row == BOTH and not job.is_done:
                    _keep_start(plan, job.entry)
                _do(job, run)
            if adds_a_row or not commands:
                commands = list(dict.fromkeys([*commands, options.command]))
            content = write_table(options, whole, commands)
        write_pictures(options.output_dir, whole, content)
        say(console, (options.output_dir / ABLATION_TABLE).read_text(encoding="utf-8"))
        names = ", ".join((ABLATION_JSON, ABLATION_TABLE, ABLATION_PICTURE, LEARNING_PICTURE))
        say(console, f"in {options.output_dir}: {names}")
        if options.export:
            _export(options, whole, content, console, run)
    return content


def _name(job: Job, entry: Entry) -> str:
    return job.kind if job.entry == entry else f"{job.kind} {job.entry.title}"


def _outlook(entry: Entry, jobs: Sequence[Job]) -> str:
    """What is done of an entry and what is to do."""
    done = [_name(job, entry) for job in jobs if job.is_done]
    left = [_name(job, entry) for job in jobs if not job.is_done]
    if not left:
        return "done already"
    return f"to do: {', '.join(left)}" + (f"; done already: {', '.join(done)}" if done else "")


def _do(job: Job, run: RunLauncher) -> None:
    if job.is_done:
        return
    if job.kind == TRAIN:
        for measured in job.measured_by:  # of the files that it had before
            shutil.rmtree(measured.result.parent, ignore_errors=True)
    if job.config is not None and job.config_file is not None:
        job.config_file.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(job.config_file, yaml.safe_dump(config_to_dict(job.config), sort_keys=False))
    run(job.launcher, job.arguments)
    if not job.is_done:
        raise ValueError(f"launch/{job.launcher}: ended without {job.result}; run this again")


def _keep_start(plan: Plan, entry: Entry) -> None:
    """The recipe of its stage 1, which may be trained again by another while these results stay."""
    folder = plan.start_folder(entry)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, plan.run_config(plan.first_of(entry)))


def earlier_commands(folder: Path) -> list[str]:
    """The commands that added the rows of an ablation's table so far; none where no table can be read."""
    try:
        content = json.loads((folder / ABLATION_JSON).read_text(encoding="utf-8"))
        return list(content.get("commands") or [content["command"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def write_table(options: ReproduceOptions, plan: Plan, commands: Sequence[str]) -> dict[str, Any]:
    """Writes ablation.json and ablation.md from what is on disk; returns the content of the first.

    Args:
        commands: that made what is on disk, in order.

    Raises:
        ValueError: nothing is measured yet, or the models' files do not belong together.
    """
    entries = plan.entries(ROWS)
    found = {entry: read_measured(plan, entry) for entry in entries}
    facts = {
        "command": commands[-1],
        "commands": list(commands),
        "model": options.model,
        "dataset": options.dataset,
        "train_split": options.train_split,
        "test_split": options.test_split,
        "queries": options.queries,
        "top_k": options.top_k,
        "max_length": options.evaluated_length,
        "stage1": config_to_dict(options.stage1),
        "stage2": config_to_dict(options.stage2),
    }
    measured = [one for one in found.values() if one is not None]
    content = ablation_content(facts, measured, [entry for entry, one in found.items() if one is None])
    content |= training_overlap(options, plan, measured)
    folder = options.output_dir
    write_json(folder / ABLATION_JSON, content)
    write_text_atomically(folder / ABLATION_TABLE, ablation_markdown(content))
    return content


def write_pictures(folder: Path, plan: Plan, content: dict[str, Any]) -> None:
    """Draws the content of ablation.json, and the finished runs."""
    write_atomically(folder / ABLATION_PICTURE, draw_ablation(content))
    write_atomically(folder / LEARNING_PICTURE, draw_learning(read_curves(plan, plan.entries(ROWS))))


def read_curves(plan: Plan, entries: Sequence[Entry]) -> list[Curves]:
    """The finished runs of trained entries."""
    curves = []
    for entry in entries:
        folder = plan.run_folder(entry)
        if entry.row in TRAINED and entry.seed is not None and (folder / REPORT_FILE).is_file():
            probes, steps = read_lines(folder / PROBES_FILE), read_lines(folder / STEPS_FILE)
            curves.append(Curves(entry.row, entry.seed, probes, steps))
    return curves


def _export(
    options: ReproduceOptions, plan: Plan, content: dict[str, Any], console: Console, run: RunLauncher
) -> None:
    """Exports the seed of both stages with the highest nDCG@10, once all seeds are there."""
    left = [entry.title for entry in plan.entries([BOTH]) if entry.title in content["missing"]]
    if left:
        say(console, f"not exported: {', '.join(left)} missing")
        return
    row = next(row for row in content["rows"] if row["row"] == BOTH)
    score, seed = max(zip(row[MAIN_METRIC]["of_each_seed"], row["seeds"], strict=True))
    best = Entry(BOTH, seed)
    folder = options.output_dir / EXPORT_FOLDER / f"seed{seed}"
    say(
        console,
        f"export: {best.title}, the best of {len(row['seeds'])} by nDCG@10 on {options.test_split} "
        f"({score:.3f}, which that choice flatters)",
    )
    if folder.exists():
        say(console, f"{folder}: is there already, and left alone")
        return
    arguments = ["--model", plan.model(best), "--output_dir", str(folder)]
    run("export_hf.py", [*arguments, "--metrics", str(plan.metrics_file(best))])
