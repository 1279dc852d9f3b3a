"""The hand count against what XLA counts on programs without a loop."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import prorank_jax.flops
from prorank_jax.config import GrpoOptions
from prorank_jax.flops import (
    forward_flops,
    grpo_step_flops,
    layer_weights,
    ranking_step_flops,
    read_flops,
)
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.transformer import Transformer
from prorank_jax.types import PromptRows
from tests.cpu.tiny import tiny_config

WIDE = dataclasses.replace(
    tiny_config("llama"), dim=64, heads=8, kv_heads=4, head_dim=16, mlp_dim=256, layers=1
)
WIDTH = 32
XLA_ADDS = 0.12  # norms and softmax


def xlas_count(*places: jax.Array, method: str) -> float:
    model = Transformer(WIDE)
    tokens, layout = jnp.zeros((1, WIDTH), jnp.int32), prompt_layout(jnp.array([WIDTH]), WIDTH)
    params = model.init(jax.random.key(0), tokens, layout)
    run = jax.jit(lambda p: model.apply(p, tokens, layout, *places, method=method)[0])
    return run.lower(params).compile().cost_analysis()["flops"]


def test_forward_count_is_close_to_xlas_own():
    assert forward_flops(WIDE, WIDTH, WIDTH) == pytest.approx(xlas_count(method="__call__"), rel=XLA_ADDS)


@pytest.mark.parametrize("tokens", [1, WIDTH, 1000])
def test_a_row_counts_so_much_more_than_what_causality_leaves(tokens):
    left = sum(forward_flops(WIDE, 1, place) for place in range(1, tokens + 1))
    w, hc = layer_weights(WIDE), WIDE.heads * WIDE.head_dim
    more = (w + 2 * hc * tokens) / (w + hc * (tokens + 1))
    assert forward_flops(WIDE, tokens, tokens) / left == pytest.approx(more, rel=1e-12)


@pytest.mark.parametrize("read", [1, 3])
def test_inference_count_is_close_to_xlas_own(read):
    counted = xlas_count(jnp.arange(read)[None], method="states_at")
    assert read_flops(WIDE, WIDTH, WIDTH, read) == pytest.approx(counted, rel=XLA_ADDS)
    assert read_flops(WIDE, WIDTH, WIDTH, WIDTH) == forward_flops(WIDE, WIDTH, WIDTH)


def test_layer_weights_are_the_matrices():
    config = tiny_config()
    assert layer_weights(config) == 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24


def test_a_step_is_three_forwards_and_grows_only_with_the_later_tokens():
    config = tiny_config()

    def flops(**options):
        return grpo_step_flops(config, GrpoOptions(**options), prompts=2, width=10)

    head = 2 * config.dim * config.vocab_size
    forward = 2 * (read_flops(config, 10, 10, 1) + head)
    assert flops(group_size=8, max_new_tokens=1) == 3 * forward
    assert flops(group_size=64, max_new_tokens=1) == 3 * forward
    assert flops(group_size=4, max_new_tokens=2) > flops(group_size=2, max_new_tokens=2) > 3 * forward
    assert flops(group_size=64, max_new_tokens=2) == flops(group_size=4, max_new_tokens=2)
    assert flops(max_new_tokens=1, updates_per_rollout=4) == 13 * forward
    assert flops(max_new_tokens=1, kl_coefficient=0.1) == 4 * forward


def test_frozen_matrices_have_no_gradient_of_their_own():
    config = tiny_config()

    def saved(**options):
        counts = [
            grpo_step_flops(config, GrpoOptions(**options), prompts=2, width=10, low_rank=low_rank)
            for low_rank in (False, True)
        ]
        return counts[0] - counts[1]

    head = 2 * config.dim * config.vocab_size
    key_values = 2 * config.dim * config.head_dim * config.kv_heads
    last = 10 * key_values + layer_weights(config) - key_values
    matrices = 2 * (2 * ((config.layers - 1) * 10 * layer_weights(config) + last) + head)
    assert saved(max_new_tokens=1) == matrices
    assert saved(max_new_tokens=1, updates_per_rollout=4, kl_coefficient=0.1) == 4 * matrices


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_peak_is_the_products_over_their_time(backend, dtype, monkeypatch):
    """What an accelerator would run, here on the CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(prorank_jax.flops, "_CPU_PEAK", (64, 4))
    monkeypatch.setattr(prorank_jax.flops, "_ACCELERATOR_PEAK", (32, 8))
    clock = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0])  # the fastest of three takes 2 seconds
    monkeypatch.setattr(prorank_jax.flops.time, "perf_counter", lambda: next(clock))
    products = 4 * 2 * 64**3 if backend == "cpu" else 8 * 2 * 32**3
    assert prorank_jax.flops.measured_matmul_flops(dtype) == products / 2


@pytest.mark.parametrize("low_rank", [False, True])
def test_packed_rows_leave_out_the_products_of_weights_with_padding(low_rank):
    """Attention pads documents all the same."""
    config = dataclasses.replace(WIDE, layers=3)
    sizes = (config, 2, 8, 48, 100)
    changes = {"low_rank": low_rank, "uses_reference": True, "reads_answer": True}
    padded = ranking_step_flops(*sizes, **changes)
    assert ranking_step_flops(*sizes, **changes, row_tokens=800) == padded
    products = (2 if low_rank else 3) + 1  # of what is trained, and of the reference
    of_last_layer = 2 * config.dim * config.head_dim * config.kv_heads  # keys and values
    per_token = 2 * (2 * layer_weights(config) + of_last_layer)
    saved = padded - ranking_step_flops(*sizes, **changes, row_tokens=700)
    assert saved == 2 * 100 * products * per_token


@pytest.mark.parametrize("low_rank", [False, True])
def test_prompts_in_rows_leave_out_padding_and_have_what_they_begin_with_once(low_rank):
    config = dataclasses.replace(WIDE, layers=3)
    options = GrpoOptions(max_new_tokens=1, kl_coefficient=0.1)

    def flops(rows):
        return grpo_step_flops(config, options, 8, 100, rows, low_rank=low_rank)

    assert flops(PromptRows(4, 0, 400)) == flops(None)
    in_products = (2 if low_rank else 3) + 1  # of what is trained, and of the reference
    of_last_layer = 2 * config.dim * config.head_dim * config.kv_heads  # keys and values
    per_token = 2 * (2 * layer_weights(config) + of_last_layer)
    assert flops(None) - flops(PromptRows(4, 0, 300)) == 2 * 100 * in_products * per_token
    logits = 4 * config.heads * config.head_dim * 2  # of a query and a key, in all layers but the last
    attention = (8 * 20 * 100 - 2 * 20 * 20) * logits
    assert flops(PromptRows(4, 0, 300)) - flops(PromptRows(4, 20, 300)) == 4 * attention
