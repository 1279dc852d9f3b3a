"""Stage 1's own jitted steps, compiled for eight TPU v5e chips that are not there. Nothing is allocated."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh

from prorank_jax.config import GrpoOptions, MeshOptions, OptimizerOptions
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.transformer import Transformer
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import answer_reward
from prorank_jax.sharding import batch_sharding, make_mesh, replicated
from prorank_jax.steps import init_state, make_grpo_step, make_score_step, train_state_shardings
from prorank_jax.steps import abstract_params
from prorank_jax.types import Batch, TrainState

TOPOLOGY = "v5e:2x4"
CHIP_MEMORY = 16 * 2**30
PROMPTS, LENGTH, GROUP = 64, 512, 16
QWEN_ANSWERS = AnswerTokens(zero=15, one=16, end=151645)
STEPS = 100
QWEN_2_5_500M = ModelConfig(
    family="qwen2",
    vocab_size=151_936,
    dim=896,
    layers=24,
    heads=14,
    kv_heads=2,
    head_dim=64,
    mlp_dim=4_864,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    tied=True,
    max_positions=32_768,
)
MESHES = [MeshOptions(data=8), MeshOptions(data=2, fsdp=4), MeshOptions(data=2, fsdp=2, tensor=2)]
