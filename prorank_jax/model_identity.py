"""What tells one model from others, without loading it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prorank_jax.models.sources import resolve_source
from prorank_jax.pretrained import read_run_config
from prorank_jax.run_folder import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    MODEL_CONFIG_FILE,
    OPTIMIZER_ITEM,
    TOKENIZER_FOLDER,
)
from prorank_jax.run_names import is_run_directory, named_step, saved_steps, split_step
from prorank_jax.storage_faults import is_unfinished

FINGERPRINT = "model_fingerprint"
IDENTITY = ("model", "model_step", FINGERPRINT)
_OF_THE_PROMPT = ("system", "instruction", "max_length", "excerpts")
_SAMPLE_BYTES = 1 << 20


def model_identity(source: str, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What tells a model from others: its source, a hash of what decides its scores, a run's step.

    Args:
        earlier: what was written of a model before, by these names. Where an earlier version gave these very
            files the hash that stands there, that is taken over, so that its work is known again.

    Raises:
        ValueError: there is no such model, or a run without a checkpoint or without the one that is named.
    """
    path = resolve_source(source)
    if not is_run_directory(path):
        return {"model": source, "model_step": None, FINGERPRINT: _fingerprint_of_no_run(path)}
    step = _saved_step(source, path)
    fingerprint, before = _fingerprint_of_run(path, step), (earlier or {}).get(FINGERPRINT)
    if before not in (None, fingerprint) and before == _fingerprint_with_whole_config(path, step):
        fingerprint = before
    return {"model": source, "model_step": step, FINGERPRINT: fingerprint}


def has_fingerprint(source: str, fingerprint: str) -> bool:
    """Whether a model's files have a fingerprint, as this version gives it or an earlier one did.

    Raises:
        ValueError: as `model_identity`.
    """
    return model_identity(source, {FINGERPRINT: fingerprint})[FINGERPRINT] == fingerprint


def check_unchanged(source: str, before: Mapping[str, Any]) -> None:
    """Refuses a model that changed while it was loaded, as where its run saves a checkpoint.

    Args:
        before: its `model_identity` from before that; what is told of it would be of other weights.

    Raises:
        ValueError: it is another one now.
    """
    if model_identity(source, before) != before:
        raise ValueError(f"model={source!r}: was written to while it was loaded; run this again")


def weights_fingerprint(source: str) -> str:
    """A hash of what decides the parameters that a model is loaded with, in hexadecimal.

    Of a run's config only the low-rank factors do: it is written anew where the run goes on elsewhere.

    Raises:
        ValueError: as `model_identity`.
    """
    path = resolve_source(source)
    if not is_run_directory(path):
        return _fingerprint_of_no_run(path)
    lora = json.dumps(asdict(read_run_config(path).lora), sort_keys=True)
    weights = fingerprint_files(_files_of_weights(path, _saved_step(source, path)), path)
    return hashlib.sha256(f"{weights}\n{lora}".encode()).hexdigest()


def _fingerprint_of_run(run: Path, step: int) -> str:
    """Of a run's config only low-rank factors and prompt decide a score; the rest may differ when it goes on.

    Nor do its logs and data, which may be written meanwhile.
    """
    config = read_run_config(run)
    decisive = {"lora": asdict(config.lora)} | {name: getattr(config.data, name) for name in _OF_THE_PROMPT}
    files = fingerprint_files(_files_of_model(run, step), run)
    return hashlib.sha256(f"{files}\n{json.dumps(decisive, sort_keys=True)}".encode()).hexdigest()


def _fingerprint_with_whole_config(run: Path, step: int) -> str:
    """As earlier versions gave it."""
    return fingerprint_files([*_files_of_model(run, step), *run.glob(CONFIG_FILE)], run)


def _fingerprint_of_no_run(path: Path) -> str:
    if path.is_file():
        return fingerprint_files([path], path.parent)
    files = [*path.glob("*.safetensors"), *path.glob("*.json"), *path.glob("*.jinja")]
    return fingerprint_files(files, path)


def _saved_step(source: str, run: Path) -> int:
    step = named_step(source, run)
    if step is None:
        step = newest_step(run)
    if step is None:
        raise ValueError(f"model={source!r}: a run without a checkpoint; let it train first")
    return step


def _files_of_weights(run: Path, step: int) -> list[Path]:
    folder = run / CHECKPOINTS_FOLDER / str(step)
    # No model is made of the optimizer's, and from a URL they are not fetched.
    files = _files_of(path for path in folder.rglob("*") if folder / OPTIMIZER_ITEM not in path.parents)
    return [*files, *run.glob(MODEL_CONFIG_FILE)]


def _files_of_model(run: Path, step: int) -> list[Path]:
    return [*_files_of_weights(run, step), *_files_of((run / TOKENIZER_FOLDER).glob("*"))]


def _files_of(paths: Iterable[Path]) -> list[Path]:
    """Without what another process, or one that was killed, is or was fetching into the same folder."""
    return [path for path in paths if path.is_file() and not is_unfinished(path)]


def newest_step(run: Path) -> int | None:
    """The step of the newest checkpoint in a run directory; None where there is none."""
    return max(saved_steps(run), default=None)


def known_as(source: str, earlier: Any) -> str:
    """`earlier` where it names the very folder, file or checkpoint that `source` names, else `source`.

    So that `runs/x`, `runs/x/` and its absolute path go on with one another's work.
    """
    if not isinstance(earlier, str):
        return source
    (name, step), (before, step_before) = split_step(source), split_step(earlier)
    here, there = Path(name).expanduser(), Path(before).expanduser()
    is_same = step == step_before and here.exists() and there.exists() and here.samefile(there)
    return earlier if is_same else source


def fingerprint_files(files: Iterable[Path], root: Path) -> str:
    """A hash over names, sizes and the first and last MiB of files, in hexadecimal.

    Enough to tell two trained models apart, without reading gigabytes; a copy has the same one.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root)}\n{size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
