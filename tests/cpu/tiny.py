"""A small random model and random prompts for tests that need no real weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prorank_jax.models.config import ModelConfig
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.prompts import AnswerTokens
from prorank_jax.types import Batch, Params

ANSWERS = AnswerTokens(zero=3, one=5, end=7)
VOCABULARY = 24


def tiny_config(family: str = "qwen2", *, tied: bool = True) -> ModelConfig:
    return ModelConfig(
        family=family,
        vocab_size=VOCABULARY,
        dim=16,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=4,
        mlp_dim=24,
        rope_theta=10_000.0,
        norm_eps=1e-6,
        tied=tied,
        max_positions=64,
    )


def tiny_model(
    family: str = "qwen2", *, seed: int = 0, scale: float = 4.0, remat: str = "none", **sizes: Any
) -> tuple[Transformer, Params]:
    """A model whose logits differ enough to tell tokens apart; biases are random too."""
    model = Transformer(dataclasses.replace(tiny_config(family), **sizes), remat=remat)
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=leaf.shape)
        values = {
            "scale": 1 + 0.1 * noise,
            "bias": 0.1 * noise,
            "kernel": 0.27 * noise,
            "embedding": 0.1 * scale * noise,
            "unembedding": 0.1 * scale * noise,
        }
        return jnp.asarray(values[path[-1].key], leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(draw, nn.unbox(abstract_params(model)))


def assert_moved_alike(before: Params, ours: Params, theirs: Params, share: float = 1e-4) -> None:
    """Each parameter went the same way, up to a share of how far and what float32 rounds of where it is."""
    on_host = map(jax.tree.leaves, jax.device_get((before, ours, theirs)))
    for start, one, other in zip(*on_host, strict=True):
        moved = np.linalg.norm(other - start)
        assert moved > 1e-6
        assert np.linalg.norm(one - other) <= share * moved + 1e-7 * np.linalg.norm(other)


def random_batch(rows: int = 4, width: int = 10, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        tokens=rng.integers(0, VOCABULARY, (rows, width)).astype(np.int32),
        lengths=rng.integers(3, width + 1, rows).astype(np.int32),
        labels=(np.arange(rows) % 2).astype(np.int32),
        examples=np.arange(rows, dtype=np.int32),
    )
