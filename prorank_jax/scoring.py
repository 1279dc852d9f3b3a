"""The relevance score: s = logit("1") − logit("0") at the last prompt position (arXiv 2506.03487)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from prorank_jax.models.attention import TokenLayout, prompt_layout
from prorank_jax.models.key_values import LayerKeyValues
from prorank_jax.models.packed_layout import packed_layout, packed_lists_layout, segment_order
from prorank_jax.models.reading import states_behind
from prorank_jax.models.transformer import Transformer
from prorank_jax.prompts import AnswerTokens
from prorank_jax.types import Array, Batch, ListBatch, PackedBatch, Params


def relevance_scores(model: Transformer, params: Params, batch: Batch, answers: AnswerTokens) -> jax.Array:
    """Scores of a batch of prompts: [B] float32, higher is more relevant.

    Two rows of the output embedding are all that is needed, so the vocabulary is never projected on; of the
    last layer, what the last token asks for. For inference: see `Transformer.states_at`.
    """
    layout = prompt_layout(batch.lengths, batch.tokens.shape[1])
    last, _ = states_behind(model, params, batch.tokens, layout, batch.lengths[:, None])
    return score_from_hidden(model, params, last[:, 0], answers)


def packed_scores(model: Transformer, params: Params, batch: PackedBatch, answers: AnswerTokens) -> jax.Array:
    """Scores behind each segment of packed rows: [R, E] float32. For inference."""
    ends = jnp.asarray(batch.starts) + jnp.asarray(batch.lengths)
    last, _ = states_behind(model, params, batch.tokens, packed_layout(batch), ends)
    return score_from_hidden(model, params, last, answers)


def score_from_hidden(model: Transformer, params: Params, last: Array, answers: AnswerTokens) -> jax.Array:
    """Scores from the hidden states of last positions: [..., D] → [...] float32."""
    direction = model.apply({"params": params}, answers.zero, answers.one, method="answer_direction")
    wide = jnp.asarray(last, jnp.float32)
    return jnp.einsum("...d,d->...", wide, direction, precision=jax.lax.Precision.HIGHEST)


def list_states(model: Transformer, params: Params, batch: ListBatch, *, trains: bool = False) -> jax.Array:
    """The hidden state at the last position of each prompt of each list: [Q, K, D].

    What the prompts of a list share runs once; the rest of each attends to its keys and values.

    Args:
        trains: whether gradients will be asked for; see `Transformer.states_at`.
    """
    return _states_of_lists(model, params, batch, batch.lengths[..., None], trains)[:, :, 0]


def answered_list_hidden(
    model: Transformer, params: Params, batch: ListBatch, answers: Array
) -> tuple[jax.Array, jax.Array]:
    """`list_states`, and the hidden state at an answer that follows each prompt: [Q, K, D] both.

    The answer is one more token of the same forward pass, which no prompt sees. For training.

    Args:
        batch: `tokens` has a free place behind the longest prompt, `row_tokens`, if there, one for each.
        answers: [Q, K] int32 token ids.
    """
    behind = jnp.arange(batch.tokens.shape[-1]) == batch.lengths[..., None]  # [Q, K, S]
    answered = dataclasses.replace(
        batch, tokens=jnp.where(behind, answers[..., None], batch.tokens), lengths=batch.lengths + 1
    )
    both = jnp.stack([batch.lengths, answered.lengths], axis=-1)
    states = _states_of_lists(model, params, answered, both, trains=True)
    return states[:, :, 0], states[:, :, 1]


def _states_of_lists(
    model: Transformer, params: Params, batch: ListBatch, lengths: Array, trains: bool
) -> jax.Array:
    """The hidden states behind so many tokens of each prompt: [Q, K, R] → [Q, K, R, D]."""
    prefix_layout = prompt_layout(batch.prefix_lengths, batch.prefix.shape[1])
    # Where lists share nothing, a place is outside its row: it is moved into it, and nobody reads the state.
    shared = jnp.maximum(batch.prefix_lengths, 1)[:, None]
    _, keyvalues = states_behind(model, params, batch.prefix, prefix_layout, shared, trains=trains)
    if batch.row_tokens is not None:
        return _packed_states(model, params, batch, lengths, (keyvalues, prefix_layout), trains)
    rest = _rest_of(batch, keyvalues, prefix_layout)
    flat = lengths.reshape(-1, lengths.shape[-1])
    states, _ = states_behind(model, params, rest.tokens, rest.layout, flat, *rest.prefix, trains=trains)
    return states.reshape(*lengths.shape, -1)


def _packed_states(
    model: Transformer,
    params: Params,
    batch: ListBatch,
    lengths: Array,
    prefix: tuple[LayerKeyValues, TokenLayout],
    trains: bool,
) -> jax.Array:
    """`_states_of_lists` with the documents of a list in one row, behind each other."""
    queries, _, width = batch.tokens.shape
    assert batch.row_tokens is not None
    layout = packed_lists_layout(batch.lengths, batch.prefix_lengths, width, batch.row_tokens)
    slots = segment_order(layout).slots
    tokens = jnp.take_along_axis(jnp.asarray(batch.tokens).reshape(queries, -1), slots, axis=1)
    behind = jnp.asarray(layout.starts)[:, :, None] + lengths  # [Q, K, R]
    places = behind.reshape(queries, -1)
    states, _ = states_behind(model, params, tokens, layout, places, *prefix, trains=trains)
    return states.reshape(*lengths.shape, -1)


class _Rest(NamedTuple):
    """What each prompt of a batch has beyond its list's start, as rows of their own.

    Attributes:
        tokens: [Q·K, S] int32.
        lengths: [Q·K] int32.
        layout: of the tokens, behind the prefix.
        prefix: keys and values of each list, and their layout for each row.
    """

    tokens: jax.Array
    lengths: jax.Array
    layout: TokenLayout
    prefix: tuple[LayerKeyValues, TokenLayout]


def _rest_of(batch: ListBatch, keyvalues: LayerKeyValues, prefix_layout: TokenLayout) -> _Rest:
    queries, documents, width = batch.tokens.shape

    def for_each_document(values: Array) -> jax.Array:
        return jnp.repeat(jnp.asarray(values), documents, axis=0)

    prefix_layout = jax.tree.map(for_each_document, prefix_layout)
    lengths = jnp.asarray(batch.lengths).reshape(queries * documents)
    layout = prompt_layout(lengths, width)
    starts = for_each_document(batch.prefix_lengths)
    layout = dataclasses.replace(layout, positions=layout.positions + starts[:, None])
    rows = jnp.asarray(batch.tokens).reshape(queries * documents, width)
    return _Rest(rows, lengths, layout, (keyvalues, prefix_layout))
