"""Work folders: the same weights, texts and settings for both sides (see launch/peers/side.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np

from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.export import save_params
from prorank_jax.models.tokenizer import save_tokenizer
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.pretrained import open_pretrained
from prorank_jax.run_folder import write_json
from prorank_jax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SETTINGS_FILE, MODEL_FOLDER = "work.json", "model"
_SMALL_SPREAD = 0.05


def write_model(options: BenchmarkOptions, work: Path) -> PreTrainedTokenizerFast:
    """Writes the model that both sides load, as a Hugging Face folder; returns its tokenizer.

    Raises:
        ValueError: there is no such model, or its files do not belong together.
    """
    model = open_pretrained(options.model)
    config = small_config(model.config) if options.quick else model.config
    params = random_params(config, options.seed) if options.quick else model.load_params(None)
    save_params(params, config, work / MODEL_FOLDER)
    save_tokenizer(model.tokenizer, work / MODEL_FOLDER)
    return model.tokenizer


def small_config(config: ModelConfig) -> ModelConfig:
    """A small model of the same family and vocabulary."""
    return dataclasses.replace(config, dim=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp_dim=128)


def random_params(config: ModelConfig, seed: int) -> Params:
    """Small normal weights around 0, norms' scales around 1: a model that says nothing sensible."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return (centre + _SMALL_SPREAD * rng.normal(size=leaf.shape)).astype(np.float32)

    shapes = nn.unbox(abstract_params(Transformer(config)))
    params: Params = jax.tree_util.tree_map_with_path(draw, shapes)
    return params


def shared_settings(options: BenchmarkOptions) -> dict[str, Any]:
    """What the sides of every task read in `work.json`."""
    return {"dtype": options.dtype, "threads": options.threads, "seed": options.seed}


def write_settings(work: Path, settings: dict[str, Any]) -> None:
    """Writes `work.json`."""
    write_json(work / SETTINGS_FILE, settings)


def unused_token(prompts: Sequence[Sequence[int]], taken: Sequence[int]) -> int:
    """The smallest token id that is in no prompt and not among `taken`: padding nobody takes for text."""
    used = {*taken, *(token for prompt in prompts for token in prompt)}
    return next(token for token in range(len(used) + 1) if token not in used)
