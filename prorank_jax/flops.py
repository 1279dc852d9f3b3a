"""Arithmetic of a training step, counted by hand, and the matrix-product speed the machine really has."""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp

from prorank_jax.config import GrpoOptions
from prorank_jax.continuations import MOST_DISTINCT
from prorank_jax.models.config import ModelConfig
from prorank_jax.types import PromptRows

# Size and number of the products that a peak is measured with.
_CPU_PEAK, _ACCELERATOR_PEAK = (2048, 4), (8192, 32)
BACKWARD_FACTOR = 2  # two products in the backward pass for each one forward


def layer_weights(config: ModelConfig) -> int:
    """Weights of one layer's matrices."""
    attention = config.dim * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    return attention + 3 * config.dim * config.mlp_dim


def forward_flops(config: ModelConfig, queries: int, keys: int) -> int:
    """FLOPs of running `queries` tokens of one row through the layers, each over `keys` keys.

    A multiply and an add count two; every key counts, masked or not, as in appendix B of PaLM (arXiv
    2204.02311). For a row of T tokens, w `layer_weights` and H heads of C channels that is (w + 2HCT) /
    (w + HC(T + 1)) times what causality leaves, and so is every speed and share of a peak made of it. Plain
    attention makes fewer products on rows beyond its first block (`attention.causal_attention`).
    """
    return read_flops(config, queries, keys, queries)


def read_flops(config: ModelConfig, queries: int, keys: int, read: int) -> int:
    """`forward_flops` where only the states of `read` tokens are wanted.

    The last layer makes keys and values of all of them, and the rest for those (`Transformer.states_at`).
    """
    return _matrix_flops(config, queries, read) + _attention_flops(config, queries, keys, read)


def _matrix_flops(config: ModelConfig, queries: int, read: int) -> int:
    whole, key_values = layer_weights(config), 2 * config.dim * config.head_dim * config.kv_heads
    last = key_values * queries + (whole - key_values) * read
    return 2 * ((config.layers - 1) * whole * queries + last)


def _attention_flops(config: ModelConfig, queries: int, keys: int, read: int) -> int:
    return 4 * config.heads * config.head_dim * keys * ((config.layers - 1) * queries + read)


def trained_flops(config: ModelConfig, queries: int, keys: int, read: int, low_rank: bool = False) -> int:
    """FLOPs of the forward and backward pass of `queries` tokens of one row, of which `read` are wanted.

    What a loss needs: a CPU runs the whole last layer and executes more. A frozen matrix needs no gradient
    of its own, so beside low-rank factors, which are not counted, one product of the backward pass is left;
    attention has no weights and keeps both.
    """
    matrices = (1 + _matrix_factor(low_rank)) * _matrix_flops(config, queries, read)
    return matrices + (1 + BACKWARD_FACTOR) * _attention_flops(config, queries, keys, read)


def _matrix_factor(low_rank: bool) -> int:
    return BACKWARD_FACTOR - 1 if low_rank else BACKWARD_FACTOR


def grpo_step_flops(
    config: ModelConfig,
    options: GrpoOptions,
    prompts: int,
    width: int,
    rows: PromptRows | None = None,
    *,
    low_rank: bool = False,
) -> int:
    """FLOPs of one GRPO step on `prompts` prompts padded to `width` tokens, heads included.

    A fused update is one forward and one backward pass over prompts and completions, of which those that
    differ are fed: a group counts with at most `MOST_DISTINCT`. Where one has more, as before a policy has
    learned the format, all are fed, and more is executed than counted here. Several updates add the rollout's
    own pass, a KL term adds the reference's. With low-rank factors the backward pass leaves out the frozen
    matrices' own gradients. The factors themselves are not counted, nor what remat recomputes, the forward
    pass that accumulation repeats, or decoding beyond the second token.

    Args:
        rows: of prompts behind each other, in which the weights multiply hardly any padding, and what all
            begin with once, while attention pads each to `width` (in the last layer, the one token that is
            read of each may see its whole row, which is not counted); None: all is padded.
    """
    later = min(options.group_size, MOST_DISTINCT) * (options.max_new_tokens - 1)
    head = 2 * config.dim * config.vocab_size * (1 + later)
    matrices, attention = _prompt_flops(config, prompts, width, rows)
    matrices += prompts * (head + _matrix_flops(config, later, later))
    attention += prompts * _attention_flops(config, later, width + later, later)
    trained = (1 + _matrix_factor(low_rank)) * matrices + (1 + BACKWARD_FACTOR) * attention
    updates = options.updates_per_rollout
    only_forward = (1 if updates > 1 else 0) + (updates if options.kl_coefficient > 0 else 0)
    return updates * trained + only_forward * (matrices + attention)


def _prompt_flops(config: ModelConfig, prompts: int, width: int, rows: PromptRows | None) -> tuple[int, int]:
    """Of the pass over a batch of prompts, of each of which the last token is read: matrices, attention."""
    if rows is None:
        return prompts * _matrix_flops(config, width, 1), prompts * _attention_flops(config, width, width, 1)
    count = prompts // rows.prompts
    attention = prompts * _attention_flops(config, width - rows.shared, width, 1)
    attention += count * _attention_flops(config, rows.shared, rows.shared, 0)
    return count * _matrix_flops(config, rows.tokens, rows.prompts), attention


def score_step_flops(config: ModelConfig, rows: int, width: int) -> int:
    """FLOPs of scoring `rows` prompts padded to `width` tokens; the two rows of the head are not counted."""
    return rows * read_flops(config, width, width, read=1)


def list_score_flops(
    config: ModelConfig, lists: int, documents: int, prefix: int, rest: int, row_tokens: int | None = None
) -> int:
    """FLOPs of scoring lists of `documents` prompts that share `prefix` tokens and have `rest` more.

    Args:
        row_tokens: of a list's packed row; None: each prompt is padded.
    """
    shared = read_flops(config, prefix, prefix, read=0)
    tokens = documents * rest if row_tokens is None else row_tokens
    attention = documents * _attention_flops(config, rest, prefix + rest, 1)
    return lists * (shared + _matrix_flops(config, tokens, documents) + attention)


def ranking_step_flops(
    config: ModelConfig,
    lists: int,
    documents: int,
    prefix: int,
    rest: int,
    *,
    low_rank: bool = False,
    uses_reference: bool = False,
    reads_answer: bool = False,
    row_tokens: int | None = None,
) -> int:
    """FLOPs of one step on lists of `documents` prompts that share `prefix` tokens and have `rest` more.

    One forward and one backward pass, the reference's forward pass where it is used. With low-rank
    factors the backward pass leaves out the frozen matrices' own gradients; the factors themselves, the
    heads, and what remat recomputes are not counted.

    Args:
        reads_answer: whether a term of the loss reads what follows an answer, as well as the prompt's end.
        row_tokens: of a list's packed row, in which the weights multiply no padding, while attention pads
            each document to `rest` tokens; None: all pads them.
    """
    read, tokens = 2 if reads_answer else 1, documents * rest if row_tokens is None else row_tokens
    count = trained_flops(config, prefix, prefix, 0, low_rank)
    count += (1 + _matrix_factor(low_rank)) * _matrix_flops(config, tokens, documents * read)
    count += (1 + BACKWARD_FACTOR) * documents * _attention_flops(config, rest, prefix + rest, read)
    if uses_reference:
        count += list_score_flops(config, 1, documents, prefix, rest, row_tokens)
    return lists * count


def measured_matmul_flops(dtype: str = "float32") -> float:
    """FLOPs per second of large square matrix products on one device, the best of a few tries.

    The result of a product is float32, as in `models.products`: a CPU has no fast one of bfloat16 otherwise.
    An accelerator makes larger products, one after the other in one program, of numbers as weights have them:
    it would wait for the host between small ones, and draws less power on equal numbers.
    """
    on_cpu = jax.default_backend() == "cpu"
    size, products = _CPU_PEAK if on_cpu else _ACCELERATOR_PEAK
    multiply = partial(jnp.matmul, preferred_element_type=jnp.float32)
    if on_cpu:
        square, once = jnp.ones((size, size), dtype), jax.jit(multiply)

        def run() -> object:
            return [once(square, square) for _ in range(products)]
    else:
        square = (jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(dtype)
        chain = jax.jit(
            lambda x: jax.lax.fori_loop(0, products, lambda _, c: multiply(c, x).astype(dtype), x)
        )

        def run() -> object:
            return chain(square)

    jax.block_until_ready(run())
    fastest = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(run())
        fastest = min(fastest, time.perf_counter() - started)
    return products * 2 * size**3 / fastest
