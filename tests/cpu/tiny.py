"""A small random model and random prompts for tests that need no real weights."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.transformer import Transformer
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
    family: str = "qwen2", *, seed: int = 0, scale: float = 4.0, remat: str = "none"
) -> tuple[Transformer, Params]:
    """A model whose logits differ enough to tell tokens apart; biases are random too."""
    model = Transformer(tiny_config(family), remat=remat)
    layout = prompt_layout(jnp.array([4]), 4)
    params = nn.unbox(model.init(jax.random.key(seed), jnp.zeros((1, 4), jnp.int32), layout))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, noisy)
    params["embedding"] = params["embedding"] * scale
    return model, params


def random_batch(rows: int = 4, width: int = 10, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        tokens=rng.integers(0, VOCABULARY, (rows, width)).astype(np.int32),
        lengths=rng.integers(3, width + 1, rows).astype(np.int32),
        labels=(np.arange(rows) % 2).astype(np.int32),
        examples=np.arange(rows, dtype=np.int32),
    )
