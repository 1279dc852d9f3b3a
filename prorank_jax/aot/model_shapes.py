"""The sizes of the model that a config names; no weights are read and, for the usual ones, no file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prorank_jax.models.config import ModelConfig
from prorank_jax.models.sources import SMOLLM2_SOURCE, resolve_source
from prorank_jax.models.weights import load_model_config, read_model_config
from prorank_jax.run_folder import MODEL_CONFIG_FILE
from prorank_jax.run_names import is_run_directory

_QWEN_2_5_500M = ModelConfig(
    family="qwen2",
    vocab_size=151_936,
    dim=896,
    layers=24,
    heads=14,
    kv_heads=2,
    head_dim=64,
    mlp_dim=4_864,
    rope_theta=1e6,
    norm_eps=1e-6,
    tied=True,
    max_positions=32_768,
)
_QWEN_2_5_1500M = dataclasses.replace(
    _QWEN_2_5_500M, dim=1_536, layers=28, heads=12, head_dim=128, mlp_dim=8_960
)
_QWEN_3_600M = ModelConfig(
    family="qwen3",
    vocab_size=151_936,
    dim=1_024,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    mlp_dim=3_072,
    rope_theta=1e6,
    norm_eps=1e-6,
    tied=True,
    max_positions=40_960,
)
_SMOLLM2_135M = ModelConfig(
    family="llama",
    vocab_size=49_152,
    dim=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    mlp_dim=1_536,
    rope_theta=1e5,
    norm_eps=1e-5,
    tied=True,
    max_positions=8_192,
)
# As their config.json on the Hugging Face hub states them.
PUBLISHED_SHAPES: dict[str, ModelConfig] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _QWEN_2_5_500M,
    "Qwen/Qwen2.5-1.5B-Instruct": _QWEN_2_5_1500M,
    "Qwen/Qwen3-0.6B": _QWEN_3_600M,
    "mixedbread-ai/mxbai-rerank-base-v2": _QWEN_2_5_500M,
    "mixedbread-ai/mxbai-rerank-large-v2": _QWEN_2_5_1500M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM2_135M,
    SMOLLM2_SOURCE: _SMOLLM2_135M,
}


def resolve_shape(source: str) -> ModelConfig:
    """The sizes of `model.source`: a run directory, a folder, a GGUF file, or a name.

    A hub id that is not in the table costs one small file, its config.json.

    Raises:
        ValueError: there is no such model, or its config.json cannot be read.
    """
    if source in PUBLISHED_SHAPES and not Path(source).exists():
        return PUBLISHED_SHAPES[source]
    path = resolve_source(source, patterns=("config.json",))
    if is_run_directory(path):
        return read_model_config(path / MODEL_CONFIG_FILE)
    return load_model_config(path)
