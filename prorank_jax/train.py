"""Runs a stage of training: opens a run's folder, resumes what is there, trains, probes and reports."""

from __future__ import annotations

import json
from typing import Any

import jax
from rich.console import Console

from prorank_jax.checkpoint import Checkpoints
from prorank_jax.config import RunConfig
from prorank_jax.device_memory import naming_memory, peak_bytes
from prorank_jax.memory_remedies import smaller_step
from prorank_jax.messages import say
from prorank_jax.metrics_log import CompilationCounter
from prorank_jax.preemption import StopVote, sigterm_noticed
from prorank_jax.processes import check_same_job, gather_texts, leads, succeed_together
from prorank_jax.run_folder import CONFIG_FILE, write_config
from prorank_jax.run_inputs import check_same_architecture
from prorank_jax.run_place import RunPlace, open_place
from prorank_jax.run_report import read_report, report, what_is_read
from prorank_jax.setup import Run, prepare_run
from prorank_jax.training_loop import TrainingLoop


def train(config: RunConfig, console: Console | None = None, told: list[int] | None = None) -> dict[str, Any]:
    """Runs or resumes the run that a config describes, and returns the content of its report.

    Args:
        told: gets what SIGTERM says, for a caller who has more to do: a run whose last step is done
            completes its checkpoint and report, and returns.

    Raises:
        ValueError: a config, model, collection or output directory that cannot work, or other examples than
            a run to go on with was trained on; nothing was written over.
        TooLittleMemoryError: a step finds no room; what helps is named.
        Interrupted: SIGTERM arrived; a checkpoint was saved.
    """
    console = console or (Console() if leads() else Console(quiet=True, force_terminal=False))
    check_same_job(config)
    peak_before = peak_bytes()
    with open_place(config) as place:
        compilations = CompilationCounter()
        run = prepare_run(config, console, place.folder, place.is_leaders)
        say(console, what_is_read(run))
        is_new = leads() and not (place.folder / CONFIG_FILE).exists()
        with succeed_together():
            if leads():
                check_same_architecture(config, place.folder, run.model_config)
        _describe_if(is_new, run, place)
        with sigterm_noticed(told) as stop_requested:
            with (
                Checkpoints(place.holder, config.checkpoint.keep) as checkpoints,
                jax.set_mesh(run.mesh),
                naming_memory(smaller_step(config, run.mesh)),
            ):
                stop = StopVote(stop_requested, run.mesh)
                loop = TrainingLoop(run, place, checkpoints, compilations, stop, console)
                # Of a run to go on with it is known only now that it has the inputs it began with.
                _describe_if(not is_new, run, place)
                made_steps = loop.run_to_end()
            with succeed_together():
                if leads():
                    report(run, place, console, made_steps, peak_before)
        return json.loads(gather_texts(read_report(place.folder) if leads() else "")[0])


def _describe_if(is_due: bool, run: Run, place: RunPlace) -> None:
    """Writes what makes the folder a run's, and one that can be loaded as a model; all processes call it."""
    with succeed_together():
        if leads() and is_due:
            write_config(place.folder, run.config)
            run.save_descriptions(place.folder)
            place.send()
