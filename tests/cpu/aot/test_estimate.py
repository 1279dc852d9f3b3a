"""The rough model: by hand for a small shape, and what it says of a reference, a format term and remat."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest

from prorank_jax.aot.advice import with_changes
from prorank_jax.aot.chips import CHIPS, Chip
from prorank_jax.aot.estimate import Estimate, estimate_step
from prorank_jax.aot.programs import SHARED_TOKENS
from prorank_jax.config import REMAT_POLICIES
from prorank_jax.config_files import config_from_flat
from prorank_jax.flops import grpo_step_flops, ranking_step_flops
from prorank_jax.models.config import ModelConfig
from tests.cpu.aot.reports import CONFIG, QWEN


def stage_2_seconds(**changes: Any) -> float:
    config = with_changes(dataclasses.replace(CONFIG, stage=2), changes)
    assert config is not None
    return estimate_step(config, "2", QWEN, CHIPS["v5e"], {"data": 8, "fsdp": 1, "tensor": 1}).seconds


@pytest.mark.parametrize("low_rank", [0, 4])
@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"ranking.kl_coefficient": 0.1}, 1),
        ({"ranking.losses": "listwise=1, preference=0.5"}, 1),
        ({"ranking.losses": "preference=1", "ranking.kl_coefficient": 0.1}, 1),
        ({"ranking.losses": "pairwise=1"}, 0),
    ],
)
def test_a_reference_costs_stage_2_another_forward_pass(changes: dict[str, Any], passes: int, low_rank: int):
    seconds = functools.partial(stage_2_seconds, **{"lora.rank": low_rank})
    sizes = (CONFIG.train.batch_size, CONFIG.ranking.documents, SHARED_TOKENS, 512 - SHARED_TOKENS)
    bare, with_reference = (ranking_step_flops(QWEN, *sizes, uses_reference=used) for used in (False, True))
    peak = 8 * CHIPS["v5e"].bf16_flops / CHIPS["v5e"].devices
    assert seconds(**changes) - seconds() == pytest.approx(passes * (with_reference - bare) / peak)


def test_a_format_term_costs_one_more_token_of_each_prompt_in_the_last_layer():
    bare = stage_2_seconds()
    assert 0 < stage_2_seconds(**{"ranking.format_coefficient": 0.1}) - bare < bare / 1000


def test_the_rough_model_orders_what_is_known():
    """Less is kept, more is computed: the policies from left to right."""

    def estimate(**changes: Any) -> Estimate:
        config = with_changes(CONFIG, changes)
        assert config is not None
        return estimate_step(config, "1", QWEN, CHIPS["v5e"], {"data": 1, "fsdp": 8, "tensor": 1})

    memory = [estimate(**{"model.remat": name}).bytes for name in REMAT_POLICIES]
    assert memory == sorted(memory, reverse=True)
    named = [
        estimate(**{"model.remat": name}).seconds for name in ("none", "mlp", "gate", "attention", "full")
    ]
    assert named == sorted(named)
    assert estimate(**{"model.remat": "dots_no_batch"}).seconds < named[-1]
    assert estimate(**{"train.batch_size": 128}).bytes < estimate().bytes
    assert estimate(**{"train.batch_size": 128}).seconds == pytest.approx(estimate().seconds / 2, rel=0.2)


ROUND_CHIP = Chip(1000.0, 2**30, 1.0, None, "none", devices=2)
# Weights: 2 layers of 8·2·(4 + 4 + 2 + 2) for attention and 3·8·16 for the MLP, and 32·8 of the embedding.
ROUND_SHAPE = ModelConfig(
    family="qwen2",
    vocab_size=32,
    dim=8,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=2,
    mlp_dim=16,
    rope_theta=1e4,
    norm_eps=1e-6,
    tied=True,
    max_positions=128,
)
ROUND_WEIGHTS = 2 * (192 + 384) + 256
ROUND_MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def round_estimate(which: str, chip: Chip = ROUND_CHIP, **changes: Any) -> Estimate:
    """Of 16 rows of 16 tokens in two parts, so that a device has two at a time; in stage 2 lists of three."""
    fields = {
        "stage": int(which),
        "data.max_length": 16 + (SHARED_TOKENS if which == "2" else 0),
        "train.batch_size": 16,
        "train.accumulation": 2,
        "grpo.group_size": 4,
        "ranking.list_size": 3,
    }
    return estimate_step(config_from_flat(fields | changes), which, ROUND_SHAPE, chip, ROUND_MESH)


@pytest.mark.parametrize(
    ("which", "changes", "tokens", "kept", "mixed", "projected"),
    [
        ("1", {"model.remat": "full"}, 32, 8, 32 * 16, 2 * (1 + 4)),
        ("1", {"model.attention": "splash"}, 32, 2 * (8 + 24 + 16 + 32) + 16, 0, 2 * (1 + 4)),
        ("1", {"model.remat": "mlp", "grpo.max_new_tokens": 1}, 32, 8 + 24 + 32, 32 * 16, 2),
        ("2", {"model.remat": "attention"}, 96, 8 + 24, 96 * 80, 0),
        ("2", {"model.remat": "gate", "ranking.kl_coefficient": 0.1}, 96, 8 + 24 + 16, 96 * 80, 6),
        ("2", {"model.remat": "dots", "ranking.format_coefficient": 0.1}, 96, 80, 96 * 80, 12),
    ],
)
@pytest.mark.parametrize(("rank", "copies"), [(0, 4), (2, 1)])
def test_the_rough_memory_counted_by_hand(which, changes, tokens, kept, mixed, projected, rank, copies):
    """Numbers a layer keeps of each token, logits of attention for a head, rows that meet the vocabulary."""
    tensor, float32, bfloat16 = 2, 4, 2
    by_hand = (
        copies * ROUND_WEIGHTS * float32 / (2 * tensor)
        + 32 * 8 * bfloat16 / tensor  # the embedding, gathered
        + 2 * tokens * kept * bfloat16 / tensor
        + mixed * 4 * float32 / tensor
        + 4 * tokens * 16 * bfloat16 / tensor  # the MLP of the layer that is computed
        + 3 * projected * 32 * float32 / tensor
    )
    assert round_estimate(which, **changes | {"lora.rank": rank}).bytes == by_hand


def test_the_rough_time_counted_by_hand():
    """Bytes a device sends for 1,408 weights, of which each of two ways over `tensor` has 704."""
    config = config_from_flat({"train.batch_size": 16, "grpo.group_size": 4})
    flops = grpo_step_flops(ROUND_SHAPE, config.grpo, 16, 16)
    # The rollout's forward pass is a third more; the chip's 1000 FLOPs are those of two devices.
    computed = flops * 4 / 3 / 8 / 500
    assert round_estimate("1", **{"model.attention": "splash"}).seconds == pytest.approx(computed)
    sent = (
        2 * 3 * 704 * 2 / 2  # half of them in bfloat16, in each part: rollout, forward, backward
        + 2 * 704 * 2 / 2  # and their gradients
        + 2 * 352 * 4 / 2  # a shard's gradients in float32 to the other half of `data`, and back
        + 2 * 4 * 2 * 2 * 32 * 8 * 2 / 2  # the states of each part in each layer, four times, over `tensor`
    )
    slow = dataclasses.replace(ROUND_CHIP, ici_bandwidth=0.2)
    seconds = round_estimate("1", slow, **{"model.attention": "splash"}).seconds
    assert seconds == pytest.approx(2 * sent / 0.1)
