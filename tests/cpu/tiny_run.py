"""A model folder, a collection and a config of a run that takes seconds."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from prorank_jax.models.export import save_params
from tests.cpu.data_fixtures import ask_otherwise, write_beir_folder
from tests.cpu.tiny import tiny_model

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = REPOSITORY / "launch" / "tpu_train.py"
TOKENIZER = Path(__file__).parent / "goldens" / "tiny_qwen"
TOKENIZER_SIZE = 496
STEPS = 24


def write_model_folder(folder: Path, seed: int = 0) -> Path:
    model, params = tiny_model(seed=seed, scale=1.0, vocab_size=TOKENIZER_SIZE, max_positions=256)
    save_params(params, model.config, folder)
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    return folder


def write_collection(folder: Path) -> Path:
    """Queries of two lengths, so that their prompts fall into two buckets."""
    write_beir_folder(folder, 12)
    ask_otherwise(folder, "dev", "who")
    corpus = folder / "corpus.jsonl"
    lines = corpus.read_text().splitlines()
    longer = [line.replace(" text ", " text of many more words ") for line in lines[::2]]
    corpus.write_text("\n".join([*longer, *lines[1::2]]) + "\n")
    return folder


def tiny_fields(model: Path, collection: Path, output_dir: Path) -> dict[str, Any]:
    """Dotted fields of a config, as `load_config` and the command line take them."""
    return {
        "output_dir": str(output_dir),
        "model.source": str(model),
        "data.source": str(collection),
        "data.max_length": 208,
        "data.buckets": (180, 208),
        "train.steps": STEPS,
        "train.batch_size": 4,
        "train.sample_every": 10,
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 2,
        "grpo.group_size": 4,
        "checkpoint.every": 4,
        "probe.every": 12,
        "probe.examples": 8,
        "probe.batch_size": 4,
    }


def command_line(fields: dict[str, Any]) -> list[str]:
    """The fields as arguments of the launcher."""
    shown = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    stage = [] if "stage" in fields else ["--stage", "1"]
    return [*stage, *(part for name, value in shown.items() for part in (f"--{name}", str(value)))]


def load_launcher(name: str = "tpu_train") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "launch" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
