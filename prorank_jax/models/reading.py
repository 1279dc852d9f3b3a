"""The hidden states of a few tokens of each row, for a score, an answer's logits, or a loss on either."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from prorank_jax.models.attention import TokenLayout
from prorank_jax.models.key_values import LayerKeyValues
from prorank_jax.models.transformer import Transformer
from prorank_jax.types import Array, Params


def states_behind(
    model: Transformer,
    params: Params,
    tokens: Array,
    layout: TokenLayout,
    lengths: Array,
    *prefix: Any,
    trains: bool = False,
) -> tuple[jax.Array, LayerKeyValues]:
    """The hidden states behind so many tokens, [B, R] → [B, R, D], and the keys and values of all.

    Args:
        tokens, layout, prefix, trains: as in `Transformer.states_at`.
        lengths: [B, R] int32, at least 1.
    """
    places = jnp.asarray(lengths) - 1
    return _states_at(model, params, tokens, layout, places, *prefix, trains=trains)


def states_of_all(
    model: Transformer,
    params: Params,
    tokens: Array,
    layout: TokenLayout,
    *prefix: Any,
    trains: bool = False,
) -> tuple[jax.Array, LayerKeyValues]:
    """The hidden states of all tokens behind a prefix, [B, Q, D], and their keys and values."""
    return _states_at(model, params, tokens, layout, None, *prefix, trains=trains)


def _states_at(
    model: Transformer, params: Params, *arguments: Any, trains: bool
) -> tuple[jax.Array, LayerKeyValues]:
    states: Any = model.apply({"params": params}, *arguments, trains=trains, method="states_at")
    return states
