"""The folder of an ablation: whose it is, and what in it may not differ from what is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prorank_jax.config_files import config_to_dict, flatten
from prorank_jax.corpora import source_fingerprint
from prorank_jax.evaluation.score_log import name_differences
from prorank_jax.reproduce.options import ReproduceOptions
from prorank_jax.reproduce.plan import Entry, Plan
from prorank_jax.reproduce.rows import ROWS, TRAINED
from prorank_jax.run_folder import LOCK_FILE, check_same_run, write_json

SETTINGS_FILE = "reproduce.json"
# Of the probe's config, what decides its prompts and answers.
_PROBE_FIELDS = ("data.", "train.seed", "probe.examples", "grpo.max_new_tokens")


def shared_settings(options: ReproduceOptions) -> dict[str, Any]:
    """What all models of an ablation are measured with, as JSON values."""
    probe = flatten(config_to_dict(options.probe_config(options.output_dir, options.model)))
    splits = [options.split(name) for name in (options.train_split, options.test_split)]
    settings = {
        "model": options.model,
        "dataset": options.dataset,
        "train_split": options.train_split,
        "test_split": options.test_split,
        "files": [source_fingerprint(split.source, split.split) for split in splits],
        "queries": options.queries,
        "top_k": options.top_k,
        "max_length": options.evaluated_length,
        "compute_dtype": options.stage2.model.compute_dtype,
        "attention": options.stage2.model.attention,
        **{f"probe: {name}": value for name, value in probe.items() if name.startswith(_PROBE_FIELDS)},
    }
    return json.loads(json.dumps(settings))


def check_folder(output_dir: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder that holds another ablation, or anything else; writes nothing.

    Raises:
        ValueError: names the fields that differ, or what the folder holds.
    """
    file = output_dir / SETTINGS_FILE
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir={str(output_dir)!r}: is a file; name a folder")
    if file.is_file():
        differences = name_differences(_read(file), settings)
        if differences:
            raise ValueError(
                f"output_dir={str(output_dir)!r}: belongs to another ablation ({differences}); name another "
                "output_dir, or repeat that ablation to go on with it"
            )
        return
    there = sorted(path.name for path in output_dir.iterdir()) if output_dir.is_dir() else []
    strangers = [name for name in there if name != LOCK_FILE and not name.endswith(".tmp")]
    if strangers:
        raise ValueError(
            f"output_dir={str(output_dir)!r}: holds {strangers[0]!r} but no {SETTINGS_FILE} of an ablation; "
            "name an empty or new folder"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: cannot be read ({error}); name another output_dir") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not the settings of an ablation; name another output_dir")
    return content


def check_runs(plan: Plan) -> None:
    """Refuses to go on beside runs of the named seeds that were trained by another recipe.

    Raises:
        ValueError: names the run and the fields that differ.
    """
    trained: Sequence[Entry] = [entry for entry in plan.entries(ROWS) if entry.row in TRAINED]
    for entry in trained:
        check_same_run(plan.run_folder(entry), plan.run_config(entry))


def claim_folder(output_dir: Path, settings: dict[str, Any]) -> None:
    """Makes a checked folder this ablation's."""
    write_json(output_dir / SETTINGS_FILE, settings)
