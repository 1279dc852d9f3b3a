"""The folder of an ablation: whose it is, and what in it may not differ from what is asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prorank_jax.config import DataOptions
from prorank_jax.config_files import config_to_dict, default_fields, flatten
from prorank_jax.corpora import source_fingerprint
from prorank_jax.evaluation.output import check_owner, read_settings
from prorank_jax.model_identity import FINGERPRINT, known_as, model_identity
from prorank_jax.model_prompt import open_with_prompts
from prorank_jax.named_files import teacher_fingerprint
from prorank_jax.negatives_run import ranking_content
from prorank_jax.reproduce.options import ReproduceOptions
from prorank_jax.reproduce.plan import RUN_FOLDER, Entry, Plan
from prorank_jax.reproduce.rows import BOTH, ROWS, STAGE1, STAGE2, TRAINED
from prorank_jax.run_examples import check_sources
from prorank_jax.run_folder import CONFIG_FILE, check_same_run, write_json
from prorank_jax.source_names import SourceFields

SETTINGS_FILE = "reproduce.json"
# Of the probe's config, what decides its prompts and answers; folders of earlier versions lack the last two.
_PROBE_FIELDS = ("data.", "train.seed", "probe.examples", "grpo.max_new_tokens")
_PROBE_COMPUTES = ("model.compute_dtype", "model.attention")
_CONTENT = "content of "  # which folders of earlier versions do not have


def as_named_before(options: ReproduceOptions) -> ReproduceOptions:
    """The options with the model's name as the folder has it, where both name the same files."""
    earlier = read_settings(options.output_dir, SETTINGS_FILE).get("model")
    return dataclasses.replace(options, model=known_as(options.model, earlier))


def _fingerprint(options: ReproduceOptions) -> str | None:
    """None: the model is not here (any more), which a finished ablation can do without."""
    earlier = read_settings(options.output_dir, SETTINGS_FILE)
    try:
        return str(model_identity(options.model, earlier)[FINGERPRINT])
    except ValueError:
        return None


def shared_settings(options: ReproduceOptions) -> dict[str, Any]:
    """What all models of an ablation are measured with, as JSON values."""
    probe = flatten(config_to_dict(options.probe_config(options.output_dir, options.model)))
    splits = {name: options.split(getattr(options, name)) for name in ("train_split", "test_split")}
    settings = {
        "model": options.model,
        FINGERPRINT: _fingerprint(options),
        "dataset": options.dataset,
        "train_split": options.train_split,
        "test_split": options.test_split,
        "files": [
            source_fingerprint(split.source, split.split, SourceFields("dataset", option))
            for option, split in splits.items()
        ],
        "queries": options.queries,
        "top_k": options.top_k,
        "max_length": options.evaluated_length,
        "compute_dtype": options.stage2.model.compute_dtype,
        "attention": options.stage2.model.attention,
        **{
            f"probe: {name}": value
            for name, value in probe.items()
            if name.startswith((*_PROBE_FIELDS, *_PROBE_COMPUTES))
        },
        **_named_files(options),
    }
    return json.loads(json.dumps(settings))


def _named_files(options: ReproduceOptions) -> dict[str, Any]:
    """The content of the files that the recipes name beside the collection; another one is another recipe."""
    return {
        f"{_CONTENT}{stage}.data.{name}": content
        for stage, recipe in (("stage1", options.stage1), ("stage2", options.stage2))
        for name, content in {
            "teacher_scores": teacher_fingerprint(recipe.data),
            "negatives_run": ranking_content(recipe.data).get("negatives_run", ""),
        }.items()
        if content
    }


def check_folder(output_dir: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder that holds another ablation, or anything else; writes nothing.

    Where one of the two model fingerprints is not known, they are not compared, nor how an earlier version
    computed its probes. Fields of `data` that came later had their defaults.

    Raises:
        ValueError: names the fields that differ, or what the folder holds.
    """
    earlier = read_settings(output_dir, SETTINGS_FILE)
    if earlier and None in (earlier.get(FINGERPRINT), settings[FINGERPRINT]):
        settings = {**settings, FINGERPRINT: earlier.get(FINGERPRINT)}
    unwritten = {f"probe: {name}": value for name, value in default_fields("data.").items()}
    unwritten |= {name: settings[name] for name in (f"probe: {field}" for field in _PROBE_COMPUTES)}
    unwritten |= {name: value for name, value in settings.items() if name.startswith(_CONTENT)}
    check_owner(output_dir, SETTINGS_FILE, settings, "ablation", unwritten)


def begins_fingerprint(output_dir: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder of an earlier version is about to get its model's fingerprint."""
    earlier = read_settings(output_dir, SETTINGS_FILE)
    return bool(earlier) and earlier.get(FINGERPRINT) is None and settings[FINGERPRINT] is not None


def check_recipes(options: ReproduceOptions) -> None:
    """Refuses recipes whose prompts the model cannot have, before a folder is theirs; reads no weights.

    Raises:
        ValueError: there is no such model, or a length that is too short or too long for it.
    """
    data, attention = options.stage2.data, options.stage2.model.attention
    for length in sorted({options.evaluated_length, options.stage1.data.max_length, data.max_length}):
        open_with_prompts(
            options.model,
            max_length=length,
            instruction=data.instruction,
            system=data.system,
            excerpts=data.excerpts,
            attention=attention,
        )


def check_training(options: ReproduceOptions) -> None:
    """Refuses what a run would be refused for once those before it have ended, hours later.

    It asks for no device, which is for the runs.

    Raises:
        ValueError: data, splits or losses that cannot work.
    """
    plan = Plan(options)
    for row in (STAGE1, STAGE2):  # both stages follow the recipes of each
        if not {row, BOTH}.isdisjoint(options.only):
            for seed in _seeds_that_differ(options, plan.run_config(Entry(row, options.seeds[0])).data):
                check_sources(plan.run_config(Entry(row, seed)))


def _seeds_that_differ(options: ReproduceOptions, data: DataOptions) -> tuple[int, ...]:
    """One, but where each seed draws other queries, which a run of negatives or a teacher may lack."""
    named = data.negatives_run or data.teacher_scores
    return options.seeds if data.max_queries and named else options.seeds[:1]


def seeds_there(options: ReproduceOptions) -> tuple[int, ...]:
    """The seeds that the options name, and those of the runs that the folder holds already; ascending."""
    pattern = f"seed*/{RUN_FOLDER}/{CONFIG_FILE}"
    runs = [file for row in TRAINED for file in (options.output_dir / row).glob(pattern)]
    numbers = [file.parents[1].name.removeprefix("seed") for file in runs]
    return tuple(sorted({*options.seeds, *(int(number) for number in numbers if number.isdecimal())}))


def check_runs(plan: Plan) -> None:
    """Refuses to go on beside runs of the plan's seeds that were trained by another recipe.

    Raises:
        ValueError: names the run and the fields that differ.
    """
    trained: Sequence[Entry] = [entry for entry in plan.entries(ROWS) if entry.row in TRAINED]
    for entry in trained:
        check_same_run(plan.run_folder(entry), plan.run_config(entry))
        if entry.row == BOTH:
            try:
                check_same_run(plan.start_folder(entry), plan.run_config(plan.first_of(entry)))
            except ValueError as error:
                raise ValueError(
                    f"{plan.folder(entry)}: began from a stage 1 of another recipe; delete it too ({error})"
                ) from error


def is_claimed(output_dir: Path) -> bool:
    """Whether a folder is an ablation's."""
    return (output_dir / SETTINGS_FILE).is_file()


def claim_folder(output_dir: Path, settings: dict[str, Any]) -> None:
    """Makes a checked folder this ablation's; a fingerprint that it has stays."""
    known = settings[FINGERPRINT] or read_settings(output_dir, SETTINGS_FILE).get(FINGERPRINT)
    write_json(output_dir / SETTINGS_FILE, {**settings, FINGERPRINT: known})
