"""A rough model of a training step's memory and time, to choose what is worth compiling.

It orders candidates and drops hopeless ones; nothing it says is reported as a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from prorank_jax.aot.chips import Chip
from prorank_jax.aot.programs import SHARED_TOKENS
from prorank_jax.config import RunConfig
from prorank_jax.flops import (
    forward_flops,
    grpo_step_flops,
    layer_weights,
    list_score_flops,
    ranking_step_flops,
    read_flops,
)
from prorank_jax.models.config import ModelConfig
from prorank_jax.ranking_losses import needs_reference, parse_losses

_FLOAT, _HALF = 4, 2
_STATE_COPIES = 4  # parameters, two moments, gradients


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device and seconds a step."""

    bytes: float
    seconds: float


@dataclass(frozen=True)
class _Batch:
    """What one device holds of one part of a batch: rows of tokens that attend to `keys`."""

    rows: float
    tokens: int
    keys: int
    heads_rows: float  # positions projected onto the vocabulary


def _saved_values(config: RunConfig, shape: ModelConfig) -> float:
    """Numbers a layer keeps for the backward pass, per token."""
    inputs = shape.dim
    attention = shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    products = attention + shape.dim * 2 + 2 * shape.mlp_dim
    return {
        "full": inputs,
        "attention": inputs + attention,
        "gate": inputs + attention + shape.mlp_dim,
        "mlp": inputs + attention + 2 * shape.mlp_dim,
        "dots_no_batch": inputs + products,
        "dots": inputs + products,
        "none": 2 * (inputs + products) + shape.mlp_dim,
    }[config.model.remat]


def recomputed_share(config: RunConfig, shape: ModelConfig, tokens: int, keys: int) -> float:
    """What the backward pass computes again, as a share of the layers' forward pass: not of the last one."""
    whole = forward_flops(shape, tokens, keys) / shape.layers
    mixing = 4.0 * shape.heads * shape.head_dim * tokens * keys
    one_mlp = 2.0 * shape.dim * shape.mlp_dim * tokens
    output = 2.0 * shape.dim * shape.heads * shape.head_dim * tokens
    again = {
        "full": whole - one_mlp,
        "attention": 2 * one_mlp + output,
        "gate": one_mlp + output,
        "mlp": output,
        "dots_no_batch": mixing,
        "dots": 0.0,
        "none": 0.0,
    }[config.model.remat]
    softmax = mixing / 2 if config.model.attention == "xla" else 0.0  # which plain attention never keeps
    return (shape.layers - 1) * (again + softmax) / read_flops(shape, tokens, keys, read=1)


def _batch_of(config: RunConfig, which: str, ways: int) -> _Batch:
    lists = config.train.batch_size / config.train.accumulation / ways
    width = config.data.max_length
    if which == "1":
        later = config.grpo.group_size * (config.grpo.max_new_tokens - 1)
        return _Batch(lists, width, width, lists * (1 + later))
    documents = config.ranking.documents
    at_answer = config.ranking.kl_coefficient > 0 or config.ranking.format_coefficient > 0
    places = at_answer + (config.ranking.format_coefficient > 0)  # the second behind the answer
    return _Batch(lists * documents, width - SHARED_TOKENS, width, lists * documents * places)


def _model_flops(config: RunConfig, which: str, shape: ModelConfig) -> int:
    low_rank = config.lora.rank > 0
    if which == "1":
        rows, width = config.train.batch_size, config.data.max_length
        return grpo_step_flops(shape, config.grpo, rows, width, low_rank=low_rank)
    documents = config.ranking.documents
    rest = config.data.max_length - SHARED_TOKENS
    return ranking_step_flops(
        shape,
        config.train.batch_size,
        documents,
        SHARED_TOKENS,
        rest,
        low_rank=low_rank,
        reads_answer=config.ranking.format_coefficient > 0,
    )


def _uses_reference(config: RunConfig, which: str) -> bool:
    """Whether stage 2 compares with the initial model, as `RankingObjective` decides it."""
    ranking = config.ranking
    return which == "2" and (ranking.kl_coefficient > 0 or needs_reference(parse_losses(ranking.losses)))


def _reference_flops(config: RunConfig, which: str, shape: ModelConfig) -> int:
    """FLOPs of the initial model's forward pass in stage 2; no part of it is ever computed again."""
    if not _uses_reference(config, which):
        return 0
    sizes = (SHARED_TOKENS, config.data.max_length - SHARED_TOKENS)
    return list_score_flops(shape, config.train.batch_size, config.ranking.documents, *sizes)


def estimate_step(
    config: RunConfig, which: str, shape: ModelConfig, chip: Chip, mesh: dict[str, int]
) -> Estimate:
    """Memory and time of a training step on a mesh.

    Args:
        which: `1` or `2`.
        mesh: sizes of `data`, `fsdp` and `tensor`.

    Raises:
        ValueError: losses of stage 2 that do not exist.
    """
    data, fsdp, tensor = mesh["data"], mesh["fsdp"], mesh["tensor"]
    devices = data * fsdp * tensor
    weights = shape.layers * layer_weights(shape) + shape.vocab_size * shape.dim * (1 if shape.tied else 2)
    batch = _batch_of(config, which, data * fsdp)
    tokens = batch.rows * batch.tokens

    copies = 1.0 if config.lora.rank else float(_STATE_COPIES)
    state = weights * _FLOAT * copies / (fsdp * tensor)
    gathered = shape.vocab_size * shape.dim * _HALF / tensor
    kept = tokens * shape.layers * _saved_values(config, shape) * _HALF / tensor
    logits = batch.rows * batch.tokens * batch.keys * shape.heads * _FLOAT / tensor
    one_layer = (
        logits if config.model.attention == "xla" else 0.0
    ) + tokens * shape.mlp_dim * 4 * _HALF / tensor
    heads = 3.0 * batch.heads_rows * shape.vocab_size * _FLOAT / tensor

    again = recomputed_share(config, shape, batch.tokens, batch.keys)
    rollouts = 1 if which == "1" and config.train.accumulation > 1 else 0  # sampled before the gradient
    flops = _model_flops(config, which, shape) * (3 + again + rollouts) / 3
    flops += _reference_flops(config, which, shape)
    parts = config.train.accumulation
    gathers = parts * (1 + (again > 0) + 1 + rollouts)  # forward, recomputation, backward
    sent = weights / tensor * _HALF * gathers * (fsdp - 1) / fsdp
    sent += parts * weights / tensor * _HALF * (fsdp - 1) / fsdp
    sent += 2 * weights / (tensor * fsdp) * _FLOAT * (data - 1) / data
    sent += 2 * (4 + 2 * again) * shape.layers * tokens * parts * shape.dim * _HALF * (tensor - 1) / tensor
    sending = chip.sending_bandwidth
    per_device = chip.bf16_flops / chip.devices
    seconds = max(flops / devices / per_device, sent * chip.devices / sending if sending else 0.0)
    return Estimate(state + gathered + kept + one_layer + heads, seconds)
