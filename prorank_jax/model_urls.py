"""Fetches a model from a URL into the cache: a run, a Hugging Face folder, or a GGUF file."""

from __future__ import annotations

import shutil
from pathlib import Path

import orbax.checkpoint as ocp
from etils import epath

from prorank_jax.remote_files import fetch_file, fetch_folder, open_url, url_slug, with_url_errors
from prorank_jax.run_folder import (
    CHECKPOINTS_FOLDER,
    FROZEN_FOLDER,
    OPTIMIZER_ITEM,
    REPORT_FILE,
    TOKENIZER_FOLDER,
)
from prorank_jax.run_names import RUN_FILES, check_step, is_run_directory, parts_of

FETCHED, DESCRIBED = "models", "model_descriptions"
# Weights, configuration and tokenizer; no pickled weights (.bin, .pt), because loading those runs code.
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
# Tells what an exported model was trained on.
CARD_FILE = "README.md"


def fetch_model(url: str, cache: Path) -> Path:
    """The local copy of the model at a URL; of a run, its newest complete checkpoint or the named one only.

    Large files that are here with the size and time of those there are not read again.

    Raises:
        ValueError: the URL cannot be reached, nothing is there, or a run without the step that is named.
    """
    there = open_url("model.source", url)
    here = cache / FETCHED / url_slug(url)
    run, step = with_url_errors("model.source", url, lambda: _named_run(there))
    if run is not None:
        steps = with_url_errors("model.source", url, lambda: _complete_steps(run))
        if step is not None:
            check_step(url, step, steps)
        chosen = max(steps, default=None) if step is None else step
        with_url_errors("model.source", url, lambda: _fetch_run(run, here, chosen), here=here)
    else:
        found = with_url_errors("model.source", url, lambda: _fetch(there, here), here=here)
        if not found or not here.exists():
            raise ValueError(f"model.source={url!r}: nothing is there; check the name")
    return here / there.name if there.name.endswith(".gguf") else here


def fetch_description(url: str, cache: Path) -> tuple[Path, int | None]:
    """A local folder with what tells where the model at a URL comes from: of a run its configs and report.

    Beside it the step that the URL names of a run; None: it names none.

    Raises:
        ValueError: the URL cannot be reached.
    """
    there = open_url("model.source", url)
    here = cache / DESCRIBED / url_slug(url)
    names = (*RUN_FILES, REPORT_FILE, CARD_FILE)

    def fetch() -> int | None:
        run, step = _named_run(there)
        source = there if run is None else run
        if source.is_dir():
            fetch_folder(source, here, lambda name: name in names)
        else:
            shutil.rmtree(here, ignore_errors=True)  # what an earlier call found may tell of another model
        return step

    return here, with_url_errors("model.source", url, fetch)


def _named_run(there: epath.Path) -> tuple[epath.Path | None, int | None]:
    """The run that a place names, and the step it names of that; None: it names none.

    As on this machine, what is there under the whole name is what is meant.
    """
    if is_run_directory(there):
        return there, None
    parts = None if there.exists() else parts_of(there.name)
    if parts is None or not is_run_directory(there.parent / parts[0]):
        return None, None
    return there.parent / parts[0], parts[1]


def _complete_steps(run: epath.Path) -> list[int]:
    steps = run / CHECKPOINTS_FOLDER
    return sorted(ocp.utils.checkpoint_steps(steps)) if steps.is_dir() else []


def _fetch(there: epath.Path, here: Path) -> bool:
    """Whether there is anything to fetch; what an earlier call left here is no answer."""
    if there.name.endswith(".gguf"):
        fetch_file(there, here / there.name)
    elif there.is_dir():
        if is_run_directory(here):  # of an earlier fetch; the URL holds another kind of model by now
            shutil.rmtree(here)
        fetch_folder(there, here, _is_of_a_model)
    else:
        return False
    return True


def _is_of_a_model(name: str) -> bool:
    return "/" not in name and (name.endswith(MODEL_SUFFIXES) or name == CARD_FILE)


def _fetch_run(there: epath.Path, here: Path, chosen: int | None) -> None:
    has_frozen = chosen is not None and (there / CHECKPOINTS_FOLDER / FROZEN_FOLDER).is_dir()
    needed = (str(chosen), FROZEN_FOLDER) if has_frozen else (str(chosen),)

    def is_needed(name: str) -> bool:
        parts = name.split("/")
        if parts[0] == CHECKPOINTS_FOLDER:
            return len(parts) == 1 or (parts[1] in needed and OPTIMIZER_ITEM not in parts[2:3])
        return name in (*RUN_FILES, REPORT_FILE) or parts[0] == TOKENIZER_FOLDER

    fetch_folder(there, here, is_needed)
    for folder in (here / CHECKPOINTS_FOLDER).glob("*"):
        if folder.name not in needed:  # of an earlier fetch; the URL may hold another run by now
            shutil.rmtree(folder)
