"""Fetches a model from a URL into the cache: a run, a Hugging Face folder, or a GGUF file."""

from __future__ import annotations

import shutil
from pathlib import Path

import orbax.checkpoint as ocp
from etils import epath

from prorank_jax.remote_files import fetch_file, fetch_folder, open_url, url_slug, with_url_errors
from prorank_jax.run_folder import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    MODEL_CONFIG_FILE,
    REPORT_FILE,
    TOKENIZER_FOLDER,
)

FETCHED, DESCRIBED = "models", "model_descriptions"
RUN_FILES = (CONFIG_FILE, MODEL_CONFIG_FILE)
# Weights, configuration and tokenizer; no pickled weights (.bin, .pt), because loading those runs code.
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
# Tells what an exported model was trained on.
CARD_FILE = "README.md"


def fetch_model(url: str, cache: Path) -> Path:
    """The local copy of the model at a URL; of a run, its newest complete checkpoint only.

    Large files that are here with the size and time of those there are not read again.

    Raises:
        ValueError: the URL cannot be reached, or nothing is there.
    """
    there = open_url("model.source", url)
    here = cache / FETCHED / url_slug(url)
    if not with_url_errors("model.source", url, lambda: _fetch(there, here)) or not here.exists():
        raise ValueError(f"model.source={url!r}: nothing is there; check the name")
    return here / there.name if there.name.endswith(".gguf") else here


def fetch_description(url: str, cache: Path) -> Path:
    """A local folder with what tells where the model at a URL comes from: of a run its configs and report.

    Raises:
        ValueError: the URL cannot be reached.
    """
    there = open_url("model.source", url)
    here = cache / DESCRIBED / url_slug(url)
    names = (*RUN_FILES, REPORT_FILE, CARD_FILE)

    def fetch() -> None:
        if there.is_dir():
            fetch_folder(there, here, lambda name: name in names)
        else:
            shutil.rmtree(here, ignore_errors=True)  # what an earlier call found may tell of another model

    with_url_errors("model.source", url, fetch)
    return here


def _fetch(there: epath.Path, here: Path) -> bool:
    """Whether there is anything to fetch; what an earlier call left here is no answer."""
    if there.name.endswith(".gguf"):
        fetch_file(there, here / there.name)
    elif all((there / name).exists() for name in RUN_FILES):
        _fetch_run(there, here)
    elif there.is_dir():
        fetch_folder(there, here, _is_of_a_model)
    else:
        return False
    return True


def _is_of_a_model(name: str) -> bool:
    return "/" not in name and (name.endswith(MODEL_SUFFIXES) or name == CARD_FILE)


def _fetch_run(there: epath.Path, here: Path) -> None:
    steps = there / CHECKPOINTS_FOLDER
    newest = max(ocp.utils.checkpoint_steps(steps), default=None) if steps.is_dir() else None

    def is_needed(name: str) -> bool:
        parts = name.split("/")
        if parts[0] == CHECKPOINTS_FOLDER:
            return len(parts) == 1 or parts[1] == str(newest)
        return name in (*RUN_FILES, REPORT_FILE) or parts[0] == TOKENIZER_FOLDER

    fetch_folder(there, here, is_needed)
    for step in (here / CHECKPOINTS_FOLDER).glob("*"):
        if step.name != str(newest):  # of an earlier fetch; the URL may hold another run by now
            shutil.rmtree(step)
