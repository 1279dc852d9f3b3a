"""Takes the held-out probe of any model, without training it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from prorank_jax.config import LoraOptions, RunConfig
from prorank_jax.device_memory import naming_memory
from prorank_jax.model_identity import model_identity
from prorank_jax.probe import run_probe, to_record
from prorank_jax.run_folder import write_json
from prorank_jax.setup import prepare_run

PROBE_FILE = "probe.json"


def probe_model(config: RunConfig, data_folder: Path, console: Console | None = None) -> dict[str, Any]:
    """Probes `model.source` on the prompts that a run of this config holds out; returns probe.json's content.

    The prompts depend on the sections `data` and `probe` and on `train.seed` only, so models that are probed
    with the same ones answer the same prompts.

    Args:
        config: of stage 1 or 2; `output_dir` is where probe.json goes, here on this machine.
        data_folder: holds the tokenized prompts, and may serve many models.

    Raises:
        ValueError: a model, collection or config that cannot work.
    """
    console = console or Console()
    # The factors of a run are merged into its weights when it is opened; none are added for a probe.
    config = dataclasses.replace(config, lora=LoraOptions())
    identity = model_identity(config.model.source)
    run = prepare_run(config, console, data_folder)
    smaller = (
        f"lower probe.batch_size ({config.probe.batch_size}) or data.max_length ({config.data.max_length})"
    )
    with jax.set_mesh(run.mesh), naming_memory(smaller):
        result = run_probe(
            run.probe_step,
            run.load_initial_params(),
            run.held_out,
            run.renderer.answer_tokens,
            run.mesh,
            step=0,
            show_progress=console.is_terminal,
        )
    content = {**identity, **to_record(result)}
    del content["step"]  # of a training run, which this is not
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / PROBE_FILE, content)
    console.print(
        f"{result.examples} held-out prompts: format {result.format_rate:.3f}, "
        f"accuracy {result.accuracy:.3f}, AUC {result.auc:.3f}",
        highlight=False,
    )
    return content
