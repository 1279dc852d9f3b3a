"""The pass of training over a batch of prompts: padded each by itself, or behind each other in rows.

In rows the weights multiply hardly any padding, and what all prompts begin with runs once for each row. What
comes out is the same: the state behind each prompt, and the keys and values of its padded row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.key_values import KeyValues, LayerKeyValues, for_rows
from prorank_jax.models.packed_layout import packed_prompts_layout, segment_order, take_apart
from prorank_jax.models.reading import states_behind
from prorank_jax.models.transformer import Transformer
from prorank_jax.types import Array, Batch, Params, PromptRows


def prompt_states(
    model: Transformer, params: Params, batch: Batch, *, trains: bool = False
) -> tuple[jax.Array, LayerKeyValues]:
    """The hidden state behind each prompt [B, D], and the keys and values of all tokens [..., B, T, J, C].

    What those have at padding is finite and means nothing.

    Args:
        trains: whether gradients will be asked for; see `Transformer.states_at`.
    """
    if batch.rows is not None:
        return _states_in_rows(model, params, batch, batch.rows, trains)
    layout = prompt_layout(batch.lengths, batch.tokens.shape[1])
    lengths = batch.lengths[:, None]
    states, keyvalues = states_behind(model, params, batch.tokens, layout, lengths, trains=trains)
    return states[:, 0], keyvalues


def _states_in_rows(
    model: Transformer, params: Params, batch: Batch, rows: PromptRows, trains: bool
) -> tuple[jax.Array, LayerKeyValues]:
    prompts, width = batch.tokens.shape
    shared, count, rest = rows.shared, prompts // rows.prompts, width - rows.shared
    lengths = (jnp.asarray(batch.lengths) - shared).reshape(count, rows.prompts)
    layout = packed_prompts_layout(lengths, shared, rest, rows.tokens)
    order = segment_order(layout)
    by_row = jnp.asarray(batch.tokens).reshape(count, rows.prompts, width)
    rests = by_row[:, :, shared:].reshape(count, -1)
    tokens = jnp.take_along_axis(rests, order.slots[:, shared:], axis=1)
    tokens = jnp.concatenate([by_row[:, 0, :shared], tokens], axis=1)
    ends = jnp.asarray(layout.starts) + lengths
    states, packed = states_behind(model, params, tokens, layout, ends, trains=trains)

    def padded(of_row: Array) -> jax.Array:
        """[R, T, J, C] of one layer → [B, T, J, C]."""
        own = take_apart(jnp.asarray(of_row), order).reshape(prompts, rest, *of_row.shape[2:])
        start = for_rows(jnp.asarray(of_row[:, :shared]), prompts)
        return jnp.concatenate([start, own], axis=1)

    def all_padded(of_rows: KeyValues) -> KeyValues:
        return jax.tree.map(jax.vmap(padded), of_rows)

    last = None if packed.last is None else jax.tree.map(padded, packed.last)
    return states.reshape(prompts, -1), LayerKeyValues(all_padded(packed.stacked), last)
