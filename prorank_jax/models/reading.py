"""The hidden states of a few tokens of each row, for a score, an answer's logits, or a loss on either."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from prorank_jax.models.attention import TokenLayout
from prorank_jax.models.key_values import LayerKeyValues
from prorank_jax.models.packed_layout import PackedLayout
from prorank_jax.models.transformer import Transformer
from prorank_jax.types import Array, Params


def states_behind(
    model: Transformer,
    params: Params,
    tokens: Array,
    layout: TokenLayout | PackedLayout,
    lengths: Array | None,
    *prefix: Any,
    trains: bool = False,
) -> tuple[jax.Array, LayerKeyValues]:
    """The hidden states behind so many tokens, [B, R] → [B, R, D], and the keys and values of all.

    Args:
        tokens, layout, prefix, trains: as in `Transformer.states_at`.
        lengths: [B, R] int32, at least 1; None: behind each token, [B, Q, D].
    """
    places = None if lengths is None else jnp.asarray(lengths) - 1
    states: Any = model.apply(
        {"params": params}, tokens, layout, places, *prefix, trains=trains, method="states_at"
    )
    return states
