"""Attention in plain jax, for every backend: memory and products no more than they must be."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from prorank_jax.models.over_mesh import on_one_cpu
from prorank_jax.models.products import product_over_rows
from prorank_jax.models.remat import ATTENDED, named_flat
from prorank_jax.models.row_parts import OfRows, fits_caches, in_row_parts
from prorank_jax.types import Array

# Rows longer than this attend in blocks of queries, so that memory grows with the length, not its square.
LONGEST_AT_ONCE = 2048
QUERY_BLOCK = 512
# Rows of one sequence that are longer than this attend in blocks without the keys that stand behind them.
# More blocks leave out more, and take longer to compile: on a CPU they are worth it for long rows only.
CAUSAL_BLOCK = 128
MOST_CAUSAL_BLOCKS = 8
MOST_BLOCKS_OF_LONG_ROWS = 16
_HIDDEN = float(np.finfo(np.float32).min)


@flax.struct.dataclass
class CausalBlocks:
    """Rows of one sequence each, padded on the right, which follow a prefix or none.

    A query sees the visible slots of the prefix, and of its own sequence itself and what stands before:
    padding stands behind every token that is read.

    Attributes:
        prefix_visible: [B, P] bool, false at padding; None without a prefix.
    """

    prefix_visible: Array | None


def leaves_blocks_out(queries: int) -> bool:
    """Whether rows of so many tokens are for `causal_attention`."""
    return queries > CAUSAL_BLOCK


def dot_product_attention(query: Array, key: Array, value: Array, visible: Array) -> jax.Array:
    """Grouped-query attention with a float32 softmax, portable to every backend.

    Args:
        query: [B, Q, H, C]; key, value: [B, S, J, C], H a multiple of J; one dtype.
        visible: [B, Q, S] bool; a row that sees nothing averages over all keys (never NaN).

    Returns:
        [B, Q, H, C] in the dtype of `value`.
    """
    if query.shape[1] <= LONGEST_AT_ONCE:
        return _attend(query, key, value, visible)
    return _attend_in_turn(query, key, value, visible)


def _attend_in_turn(query: Array, key: Array, value: Array, visible: Array) -> jax.Array:
    """As `dot_product_attention`, `QUERY_BLOCK` queries after the others; `visible` may be [1, Q, S]."""
    queries = query.shape[1]
    blocks = -(-queries // QUERY_BLOCK)
    missing = blocks * QUERY_BLOCK - queries

    def split(rows: jax.Array) -> jax.Array:
        """[B, Q, …] → [blocks, B, QUERY_BLOCK, …], filled up with zeros."""
        padded = jnp.pad(rows, ((0, 0), (0, missing), *((0, 0) for _ in rows.shape[2:])))
        return jnp.moveaxis(padded.reshape(rows.shape[0], blocks, QUERY_BLOCK, *rows.shape[2:]), 1, 0)

    parts = (split(jnp.asarray(query)), split(jnp.asarray(visible)))
    mixed = jax.lax.map(lambda part: _attend(part[0], key, value, part[1]), parts)
    return jnp.moveaxis(mixed, 0, 1).reshape(query.shape[0], -1, *query.shape[2:])[:, :queries]


def causal_attention(query: Array, key: Array, value: Array, seen: CausalBlocks) -> jax.Array:
    """As `dot_product_attention`, without the products that causality hides, up to what fills a block.

    Of n blocks (n − 1) / 2n of the work on the row's own keys is left out.

    Args:
        query: [B, Q, H, C]; key, value: [B, P + Q, J, C], prefix first, H a multiple of J; one dtype.

    Returns:
        [B, Q, H, C] in the dtype of `value`. What stands at padding is finite and means nothing.
    """
    queries = query.shape[1]
    prefix = key.shape[1] - queries
    most = MOST_CAUSAL_BLOCKS if queries <= LONGEST_AT_ONCE else MOST_BLOCKS_OF_LONG_ROWS
    block = CAUSAL_BLOCK * -(-queries // (CAUSAL_BLOCK * most))
    attend = _attend if block <= QUERY_BLOCK else _attend_in_turn
    mixed = []
    for start in range(0, queries, block):
        end = min(start + block, queries)
        visible = jnp.asarray(np.arange(end) <= np.arange(start, end)[:, None])[None]  # [1, block, end]
        if seen.prefix_visible is not None:
            slots = jnp.asarray(seen.prefix_visible)
            of_prefix = jnp.broadcast_to(slots[:, None], (len(slots), end - start, prefix))
            of_row = jnp.broadcast_to(visible, (len(slots), *visible.shape[1:]))
            visible = jnp.concatenate([of_prefix, of_row], axis=2)
        keys, values = key[:, : prefix + end], value[:, : prefix + end]
        mixed.append(attend(query[:, start:end], keys, values, visible))
    return jnp.concatenate(mixed, axis=1)


@jax.custom_vjp
def _attend(query: Array, key: Array, value: Array, visible: Array) -> jax.Array:
    """As `dot_product_attention`, all queries at once.

    The backward pass computes the weights again from queries, keys and the softmax's logarithmic sums
    (FlashAttention: arXiv 2205.14135, section 3.1): kept, they would be H·S float32 numbers for each query
    and layer, several times all else that is kept. That makes five products of it, where keeping them makes
    four.
    """
    return _attend_forward(query, key, value, visible)[0]


class _Kept(NamedTuple):
    """What the backward pass needs: the arguments, and the log of each softmax's sum [B, J, G·Q]."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    visible: jax.Array
    log_sums: jax.Array


def _by_head(rows: Array, kv_heads: int) -> jax.Array:
    """[B, Q, H, C] → [B, J, G·Q, C], the order of plain batched products.

    Another one would have the compiler transpose the logits, which are larger by S / C.
    """
    batch, queries, heads, head_dim = rows.shape
    grouped = jnp.asarray(rows).reshape(batch, queries, kv_heads, heads // kv_heads, head_dim)
    return jnp.transpose(grouped, (0, 2, 3, 1, 4)).reshape(batch, kv_heads, -1, head_dim)


def _by_token(rows: Array, queries: int) -> jax.Array:
    """The inverse of `_by_head`."""
    batch, kv_heads, _, head_dim = rows.shape
    grouped = jnp.asarray(rows).reshape(batch, kv_heads, -1, queries, head_dim)
    return jnp.transpose(grouped, (0, 3, 1, 2, 4)).reshape(batch, queries, -1, head_dim)


def _product(equation: str, left: Array, right: Array) -> jax.Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


def _logits(query: Array, key: Array, visible: Array) -> jax.Array:
    """Logits [B, J, G·Q, S] float32; the scale goes to the queries, which are fewer."""
    queries, head_dim = query.shape[1], query.shape[3]
    scaled = (jnp.asarray(query, jnp.float32) / math.sqrt(head_dim)).astype(query.dtype)
    logits = _product("bjqc,bsjc->bjqs", _by_head(scaled, key.shape[2]), key)
    return _where_visible(logits, visible, queries, _HIDDEN)


def _where_visible(logits: jax.Array, visible: Array, queries: int, other: float) -> jax.Array:
    split = logits.reshape(*logits.shape[:2], -1, queries, logits.shape[-1])
    return jnp.where(visible[:, None, None], split, other).reshape(logits.shape)


def _mix(visible: Any, query: Any, key: Any, value: Any) -> tuple[jax.Array, jax.Array]:
    """What each query gets [B, Q, H, C], and the log of its softmax's sum [B, J, G·Q]."""
    logits = _logits(query, key, visible)
    highest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    total = weights.sum(axis=-1, keepdims=True)
    mixed = _product("bjqs,bsjc->bjqc", weights.astype(value.dtype), value) / total
    return _by_token(mixed.astype(value.dtype), query.shape[1]), (highest + jnp.log(total))[..., 0]


def _in_parts(of_rows: OfRows, visible: Any, query: Any, key: Any, *others: Any) -> tuple[jax.Array, ...]:
    """`of_rows(visible, query, key, *others)`, on one CPU what its caches hold after the other.

    That is a few rows, or, where they cannot hold the logits of one, its KV heads.

    Args:
        others: of tokens [B, T, heads, C], or of heads [B, J, ...]; so are the results.
    """
    arrays, batch, kv_heads = (query, key, *others), len(query), key.shape[2]
    logit_bytes = 4 * query.shape[1] * query.shape[2] * key.shape[1]  # of one row
    if not on_one_cpu() or fits_caches(logit_bytes):
        return in_row_parts(of_rows, logit_bytes, visible, *arrays)
    if len(visible) > 1:
        visible = jnp.repeat(jnp.asarray(visible), kv_heads, axis=0)
    arrays = tuple(_heads_as_rows(array, kv_heads) for array in arrays)
    results = in_row_parts(of_rows, logit_bytes // kv_heads, visible, *arrays)
    return tuple(_rows_as_heads(result, batch) for result in results)


def _heads_as_rows(array: Any, kv_heads: int) -> jax.Array:
    """[B, T, J·G, C] → [B·J, T, G, C], or [B, J, N] → [B·J, 1, N]."""
    if array.ndim == 3:
        return jnp.asarray(array).reshape(-1, 1, array.shape[2])
    batch, tokens, heads, head_dim = array.shape
    grouped = jnp.asarray(array).reshape(batch, tokens, kv_heads, heads // kv_heads, head_dim)
    return jnp.swapaxes(grouped, 1, 2).reshape(-1, tokens, heads // kv_heads, head_dim)


def _rows_as_heads(rows: jax.Array, batch: int) -> jax.Array:
    """The inverse of `_heads_as_rows`."""
    by_row = rows.reshape(batch, -1, *rows.shape[1:])
    if rows.ndim == 3:
        return by_row[:, :, 0]
    return jnp.swapaxes(by_row, 1, 2).reshape(batch, rows.shape[1], -1, rows.shape[3])


def _attend_forward(query: Any, key: Any, value: Any, visible: Any) -> tuple[jax.Array, _Kept]:
    mixed, log_sums = _in_parts(_mix, visible, query, key, value)
    mixed, log_sums = named_flat(mixed, ATTENDED), checkpoint_name(log_sums, ATTENDED)
    return mixed, _Kept(query, key, value, visible, log_sums)


def _attend_backward(kept: _Kept, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    query, key, value, visible, log_sums = kept
    of_query, of_key, of_value = _in_parts(_gradients, visible, query, key, value, log_sums, gradient)
    return of_query, of_key, of_value, None


def _gradients(
    visible: Any, query: Any, key: Any, value: Any, log_sums: Any, gradient: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    queries, kv_heads = query.shape[1], key.shape[2]
    weights = jnp.exp(_logits(query, key, visible) - log_sums[..., None])
    of_mixed = _by_head(gradient, kv_heads)
    of_value = product_over_rows(weights.astype(value.dtype), of_mixed)  # [B, J, S, C]
    of_weights = _product("bjqc,bsjc->bjqs", of_mixed, value)
    # Their mean from the very numbers that it is taken from: gradient · result would be rounded otherwise.
    mean = (weights * of_weights).sum(axis=-1, keepdims=True)
    of_logits = weights * (of_weights - mean)
    of_logits = _where_visible(of_logits, visible, queries, 0.0) / math.sqrt(query.shape[3])
    of_logits = of_logits.astype(query.dtype)
    of_query = _by_token(_product("bjqs,bsjc->bjqc", of_logits, key), queries)
    of_key = product_over_rows(of_logits, _by_head(query, kv_heads))
    of_key, of_value = (jnp.swapaxes(rows, 1, 2) for rows in (of_key, of_value))
    return of_query.astype(query.dtype), of_key.astype(key.dtype), of_value.astype(value.dtype)


_attend.defvjp(_attend_forward, _attend_backward)
