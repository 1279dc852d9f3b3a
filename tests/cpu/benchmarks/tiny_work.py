"""A model and options of a benchmark that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.models.export import save_params
from tests.cpu.joining_tokenizer import JOINING_SIZE, write_joining_tokenizer
from tests.cpu.tiny import tiny_model

MAX_LENGTH = 400


def write_tiny_model(folder: Path) -> Path:
    """A random Qwen2 whose tokenizer joins words as Qwen's does."""
    model, params = tiny_model("qwen2", scale=1.0, vocab_size=JOINING_SIZE, max_positions=512)
    save_params(params, model.config, folder)
    write_joining_tokenizer(folder)
    return folder


def tiny_options(model: Path, **changes: Any) -> BenchmarkOptions:
    fields: dict[str, Any] = {"peer": "mxbai", "model": str(model), "max_length": MAX_LENGTH}
    return BenchmarkOptions(**fields | {"dataset": "demo:train", "rounds": 1, "warmup": 0} | changes)
