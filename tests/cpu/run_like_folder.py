"""A folder with the files that make it a run's, none of which can be loaded; how they were once hashed."""

from __future__ import annotations

from pathlib import Path

from prorank_jax.config import RunConfig
from prorank_jax.model_identity import fingerprint_files
from prorank_jax.run_folder import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    MODEL_CONFIG_FILE,
    TOKENIZER_FOLDER,
    write_config,
)

STEP = 28
WEIGHTS = f"{CHECKPOINTS_FOLDER}/{STEP}/state/data"
TOKENIZER_FILE = f"{TOKENIZER_FOLDER}/tokenizer.json"


def write_run_folder(folder: Path, config: RunConfig | None = None) -> Path:
    """Checkpoints that are there stay; without any, there is one of `STEP`."""
    for name in (*_weights(folder), TOKENIZER_FILE, MODEL_CONFIG_FILE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    write_config(folder, config or RunConfig())
    return folder


def fingerprint_of_before(run: Path) -> str:
    """With the whole config, as versions up to now told a run's model."""
    names = (*_weights(run), TOKENIZER_FILE, MODEL_CONFIG_FILE, CONFIG_FILE)
    return fingerprint_files([run / name for name in names], run)


def _weights(run: Path) -> list[str]:
    steps = [folder.name for folder in (run / CHECKPOINTS_FOLDER).glob("*")] or [str(STEP)]
    return [f"{CHECKPOINTS_FOLDER}/{step}/state/data" for step in steps]
