"""Takes the held-out probe of any model, without training it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from prorank_jax.config import LoraOptions, RunConfig
from prorank_jax.config_files import config_to_dict, default_fields, flatten
from prorank_jax.device_memory import naming_memory
from prorank_jax.evaluation.output import check_owner, read_settings
from prorank_jax.model_identity import IDENTITY, check_unchanged, known_as, model_identity
from prorank_jax.probe import ProbeResult, run_probe, to_record
from prorank_jax.run_folder import only_run_in, write_json
from prorank_jax.setup import prepare_run
from prorank_jax.source_names import is_url

PROBE_FILE = "probe.json"
SETTINGS_FILE = "probe_settings.json"
# What decides its prompts, and what the model makes of them.
_DECISIVE = ("data.", "train.seed", "probe.examples", "grpo.max_new_tokens", "model.compute_dtype")


def probe_model(
    config: RunConfig, data_folder: Path | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Probes `model.source` on the prompts that a run of this config holds out; returns probe.json's content.

    The prompts depend on the sections `data` and `probe` and on `train.seed` only, so models that are probed
    with the same ones answer the same prompts. A config of stage 2 adds those of the AUC within queries.

    Args:
        config: of stage 1 or 2; `output_dir` is where probe.json goes, here on this machine.
        data_folder: holds the tokenized prompts, and may serve many models; None: `output_dir`.

    Raises:
        ValueError: a model, collection or config that cannot work, a model that changes meanwhile, or a
            folder that holds something else, or the probe of another model or of other prompts; nothing is
            overwritten.
        TooLittleMemoryError: a batch finds no room; what helps is named.
    """
    console = console or Console()
    # The factors of a run are merged into its weights when it is opened; none are added for a probe.
    config = dataclasses.replace(config, lora=LoraOptions())
    if is_url(config.output_dir):
        raise ValueError(f"output_dir={config.output_dir!r}: is a URL; name a folder on this machine")
    output_dir = Path(config.output_dir)
    settings = _settings(config, output_dir)
    _check_folder(output_dir, settings)  # not even a lock in a stranger's folder
    with only_run_in(output_dir):
        _check_folder(output_dir, settings)
        write_json(output_dir / SETTINGS_FILE, settings)
        identity = {name: settings[name] for name in IDENTITY}
        result = _probe(config, data_folder or output_dir, console, identity)
        content = identity | to_record(result)
        del content["step"]  # of a training run, which this is not
        write_json(output_dir / PROBE_FILE, content)
    console.print(f"{result.examples} held-out prompts: {result.told}", highlight=False)
    return content


def _check_folder(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """A probe that came to no result holds nothing that another could take for its own."""
    if (output_dir / PROBE_FILE).exists() or not (output_dir / SETTINGS_FILE).is_file():
        check_owner(output_dir, SETTINGS_FILE, settings, "probe", default_fields("data."))


def _settings(config: RunConfig, output_dir: Path) -> dict[str, Any]:
    """What tells a probe from others, as JSON values."""
    earlier = read_settings(output_dir, SETTINGS_FILE)
    source = known_as(config.model.source, earlier.get("model"))
    decisive = {
        name: value for name, value in flatten(config_to_dict(config)).items() if name.startswith(_DECISIVE)
    }
    return json.loads(json.dumps(model_identity(source, earlier) | decisive))


def _probe(
    config: RunConfig, data_folder: Path, console: Console, identity: Mapping[str, Any]
) -> ProbeResult:
    run = prepare_run(config, console, data_folder)
    smaller = (
        f"lower probe.batch_size ({config.probe.batch_size}) or data.max_length ({config.data.max_length})"
    )
    with jax.set_mesh(run.mesh), naming_memory(smaller):
        params = run.load_initial_params()
        check_unchanged(identity["model"], identity)
        return run_probe(
            run.probe_step,
            params,
            run.held_out,
            run.renderer.answer_tokens,
            run.mesh,
            step=0,
            show_progress=console.is_terminal,
        )
