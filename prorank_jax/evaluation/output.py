"""The folder of an evaluation: whose it is, and the files in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prorank_jax.evaluation.harness import Evaluation
from prorank_jax.evaluation.page import sections_of
from prorank_jax.evaluation.score_log import name_differences
from prorank_jax.evaluation.summary import average, query_records
from prorank_jax.run_folder import LOCK_FILE, write_json, write_text_atomically
from prorank_jax.trec import write_run

SETTINGS_FILE = "evaluation.json"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
QUERIES_FILE = "queries.jsonl"
FIRST_STAGE_RUN, RERANKED_RUN, FUSED_RUN = "first_stage.trec", "reranked.trec", "fused.trec"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); name another output_dir") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not an object of JSON; name another output_dir")
    return content


def read_settings(output_dir: Path, settings_file: str = SETTINGS_FILE) -> dict[str, Any]:
    """What a folder says it belongs to; empty where it says nothing.

    Raises:
        ValueError: the file is damaged.
    """
    file = output_dir / settings_file
    return _read_json(file) if file.is_file() else {}


def check_owner(
    output_dir: Path,
    settings_file: str,
    settings: Mapping[str, Any],
    what: str,
    unwritten: Mapping[str, Any] | None = None,
) -> None:
    """Refuses a folder that holds other work, or the same kind with other settings; writes nothing.

    Args:
        output_dir: need not exist.
        settings_file: name of the file that says whose the folder is.
        settings: what all parts of the work share, as JSON values.
        what: the work, for messages.
        unwritten: settings that an earlier version did not write, with the values that they had then.

    Raises:
        ValueError: names the fields that differ, or what the folder holds.
    """
    place, file = f"output_dir={str(output_dir)!r}", output_dir / settings_file
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{place}: is a file; name a folder")
    if file.is_file():
        saved = {**(unwritten or {}), **read_settings(output_dir, settings_file)}
        differences = name_differences(saved, settings)
        if differences:
            raise ValueError(
                f"{place}: belongs to another {what} ({differences}); name another output_dir, or repeat "
                f"that {what} to go on with it"
            )
        return
    there = sorted(path.name for path in output_dir.iterdir()) if output_dir.is_dir() else []
    strangers = [name for name in there if name != LOCK_FILE and not name.endswith(".tmp")]
    if strangers:
        raise ValueError(
            f"{place}: holds {strangers[0]!r} but no {settings_file} of an earlier {what}; name an empty or "
            "new folder"
        )


def check_known(output_dir: Path, known: Mapping[str, Any]) -> None:
    """Refuses what `claim_folder` would, as far as it is known before the model is loaded.

    Args:
        known: some of the settings.

    Raises:
        ValueError: as `claim_folder`.
    """
    check_owner(output_dir, SETTINGS_FILE, {**read_settings(output_dir), **known}, "evaluation")


def claim_folder(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Makes an empty folder this evaluation's, or checks that it is.

    Args:
        output_dir: exists and is held by this process.
        settings: what all datasets of the folder share, as JSON values.

    Raises:
        ValueError: the folder holds something else, or an evaluation with other settings (they are named).
    """
    check_owner(output_dir, SETTINGS_FILE, settings, "evaluation")
    write_json(output_dir / SETTINGS_FILE, settings)


def write_dataset(folder: Path, evaluation: Evaluation) -> None:
    """Writes the run files and the metrics of each query; what they came from stays in scores.jsonl."""
    write_run(folder / FIRST_STAGE_RUN, evaluation.first_stage.rankings, "first_stage")
    write_run(folder / RERANKED_RUN, evaluation.reranked.rankings, "reranked")
    if evaluation.fused:
        write_run(folder / FUSED_RUN, evaluation.fused.system.rankings, "fused")
    else:  # one of an earlier call would contradict metrics.json
        (folder / FUSED_RUN).unlink(missing_ok=True)
    records = query_records(evaluation)
    write_text_atomically(folder / QUERIES_FILE, "".join(json.dumps(record) + "\n" for record in records))


def earlier_datasets(output_dir: Path) -> dict[str, Any]:
    """The entries that metrics.json has so far; the folder must be claimed.

    Raises:
        ValueError: the file is damaged.
    """
    file = output_dir / METRICS_FILE
    datasets = _read_json(file).get("datasets") if file.is_file() else {}
    needed = {"first_stage", "reranked", "delta"}
    if not isinstance(datasets, dict) or any(needed - set(entry) for entry in datasets.values()):
        raise ValueError(f"{file}: has no datasets with results; delete it, or name another output_dir")
    return datasets


def earlier_sections(output_dir: Path) -> dict[str, str]:
    """The sections of the page that an earlier call wrote, by dataset; none if it cannot be read."""
    try:
        return sections_of((output_dir / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def metrics_content(
    settings: Mapping[str, Any], versions: Mapping[str, str], datasets: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of metrics.json; with several datasets, their average too."""
    content = {**settings, "versions": dict(versions), "datasets": dict(datasets)}
    if len(datasets) > 1:
        content["average"] = average(datasets)
    return content
