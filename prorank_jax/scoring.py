"""The relevance score: s = logit("1") − logit("0") at the last prompt position (arXiv 2506.03487)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.transformer import Transformer, last_positions
from prorank_jax.prompts import AnswerTokens
from prorank_jax.types import Array, Batch, ListBatch, Params


def relevance_scores(model: Transformer, params: Params, batch: Batch, answers: AnswerTokens) -> jax.Array:
    """Scores of a batch of prompts: [B] float32, higher is more relevant.

    Two rows of the output embedding are all that is needed, so the vocabulary is never projected on.
    """
    return score_from_hidden(model, params, _last_hidden(model, params, batch), answers)


def score_from_hidden(model: Transformer, params: Params, last: Array, answers: AnswerTokens) -> jax.Array:
    """Scores from the hidden states of last positions: [..., D] → [...] float32."""
    direction = model.apply({"params": params}, answers.zero, answers.one, method="answer_direction")
    wide = jnp.asarray(last, jnp.float32)
    return jnp.einsum("...d,d->...", wide, direction, precision=jax.lax.Precision.HIGHEST)


def _last_hidden(model: Transformer, params: Params, batch: Batch) -> jax.Array:
    layout = prompt_layout(batch.lengths, batch.tokens.shape[1])
    hidden, _ = model.apply({"params": params}, batch.tokens, layout)
    return last_positions(hidden, batch.lengths)


def list_hidden(model: Transformer, params: Params, batch: ListBatch) -> jax.Array:
    """The hidden state at the last position of each prompt of each list: [Q, K, D].

    What the prompts of a list share runs once; the rest of each attends to its keys and values.
    """
    return _states_at(_rest_hidden(model, params, batch), batch.lengths)


def answered_list_hidden(
    model: Transformer, params: Params, batch: ListBatch, answers: Array
) -> tuple[jax.Array, jax.Array]:
    """`list_hidden`, and the hidden state at an answer that follows each prompt: [Q, K, D] both.

    The answer is one more token of the same forward pass, which no prompt sees.

    Args:
        batch: `tokens` has a free place behind the longest prompt.
        answers: [Q, K] int32 token ids.
    """
    behind = jnp.arange(batch.tokens.shape[-1]) == batch.lengths[..., None]  # [Q, K, S]
    answered = dataclasses.replace(
        batch, tokens=jnp.where(behind, answers[..., None], batch.tokens), lengths=batch.lengths + 1
    )
    hidden = _rest_hidden(model, params, answered)
    return _states_at(hidden, batch.lengths), _states_at(hidden, answered.lengths)


def _states_at(hidden: jax.Array, lengths: Array) -> jax.Array:
    """The hidden state of the last of so many tokens: [Q·K, S, D] and [Q, K] → [Q, K, D]."""
    return last_positions(hidden, lengths.reshape(-1)).reshape(*lengths.shape, -1)


def _rest_hidden(model: Transformer, params: Params, batch: ListBatch) -> jax.Array:
    """The hidden states of each prompt beyond what its list shares: [Q·K, S, D]."""
    queries, documents, width = batch.tokens.shape
    prefix_layout = prompt_layout(batch.prefix_lengths, batch.prefix.shape[1])
    _, keyvalues = model.apply({"params": params}, batch.prefix, prefix_layout)

    def for_each_document(values: jax.Array, axis: int) -> jax.Array:
        return jnp.repeat(values, documents, axis=axis)

    prefix = jax.tree.map(lambda values: for_each_document(values, 1), keyvalues)  # [N, Q·K, P, J, C]
    prefix_layout = jax.tree.map(lambda values: for_each_document(values, 0), prefix_layout)
    lengths = batch.lengths.reshape(queries * documents)
    layout = prompt_layout(lengths, width)
    starts = for_each_document(jnp.asarray(batch.prefix_lengths), 0)
    layout = dataclasses.replace(layout, positions=layout.positions + starts[:, None])
    rows = batch.tokens.reshape(queries * documents, width)
    hidden, _ = model.apply({"params": params}, rows, layout, prefix, prefix_layout)
    return hidden
