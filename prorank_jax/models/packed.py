"""Attention within packed rows.

For it prompts are taken out of their row, padded, and put back, which moves little beside what the weights
multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from prorank_jax.models.key_values import for_rows
from prorank_jax.models.packed_layout import (
    NO_PREFIX,
    PackedLayout,
    SegmentOrder,
    put_together,
    segment_order,
    take_apart,
)
from prorank_jax.types import Array


@flax.struct.dataclass
class PackedRows:
    """Who sees whom in packed rows: a token sees its own segment up to itself, and the one that it follows.

    Attributes:
        order: of tokens in their row, and in segments.
        prefix_places: [R, E, P] int32 the row's token at each place of the segment that each one follows;
            None where none follows another.
        apart: who sees whom where segments are rows of their own, [R·E, S] behind [R·E, P].
        within_shared: the same of what each row begins with and all its segments follow; None without.
        shared: how many tokens that are.
    """

    order: SegmentOrder
    prefix_places: Array | None
    apart: Any
    within_shared: Any = None
    shared: int = flax.struct.field(pytree_node=False, default=0)


def packed_rows(layout: PackedLayout, apart: Any, within_shared: Any = None) -> PackedRows:
    """Who sees whom in rows of a layout.

    Args:
        apart: the same where segments are rows of their own.
        within_shared: the same of what rows begin with.
    """
    of_prefix = None
    if layout.prefix_width:
        prefixes = jnp.maximum(jnp.asarray(layout.prefixes), 0)
        first = jnp.take_along_axis(jnp.asarray(layout.starts), prefixes, axis=1)
        followed = first[:, :, None] + jnp.arange(layout.prefix_width, dtype=jnp.int32)
        of_prefix = jnp.minimum(followed, layout.positions.shape[1] - 1)
    return PackedRows(segment_order(layout), of_prefix, apart, within_shared, layout.shared)


def packed_attention(
    query: Array, key: Array, value: Array, seen: PackedRows, attend: Callable[..., jax.Array]
) -> jax.Array:
    """Grouped-query attention within packed rows.

    Args:
        query: [R, T, H, C]; key, value: [R, P + T, J, C], H a multiple of J, those of a prefix that all
            segments of a row follow first; one dtype.
        attend: attention of rows apart, by `seen.apart`.

    Returns:
        [R, T, H, C] in that dtype. What stands at filler is finite and means nothing.
    """
    rows, tokens = query.shape[:2]
    segments, shared = seen.order.segments, seen.shared

    def apart(of_row: Array) -> jax.Array:
        """[R, T, heads, C] → [R·E, S, heads, C]."""
        found = take_apart(jnp.asarray(of_row), seen.order)
        return found.reshape(rows * segments, -1, *of_row.shape[2:])

    def with_prefix(of_row: Array) -> jax.Array:
        outside = of_row.shape[1] - tokens
        own = apart(of_row[:, outside:])
        if outside or shared:
            before = for_rows(jnp.asarray(of_row[:, : outside or shared]), rows * segments)
        elif seen.prefix_places is not None:
            found = _tokens_at(of_row, seen.prefix_places.reshape(rows, -1))
            before = found.reshape(rows * segments, -1, *of_row.shape[2:])
        else:
            return own
        return jnp.concatenate([before, own], axis=1)

    mixed = attend(apart(query), with_prefix(key), with_prefix(value), seen.apart)
    mixed = put_together(mixed.reshape(rows, -1, *query.shape[2:]), seen.order)
    if not shared:
        return mixed
    first = attend(query[:, :shared], key[:, :shared], value[:, :shared], seen.within_shared)
    return jnp.concatenate([first, mixed[:, shared:]], axis=1)


def _tokens_at(tokens: Array, places: Array) -> jax.Array:
    """[R, T, heads, C] at [R, N] → [R, N, heads, C]."""
    return jnp.take_along_axis(
        jnp.asarray(tokens), places[:, :, None, None], axis=1, mode="promise_in_bounds"
    )


def packed_visibility(layout: PackedLayout, places: Array) -> jax.Array:
    """Who the tokens of segments at some places of each row see: [R, N] int32 → [R, N, T] bool."""
    tokens = jnp.arange(layout.positions.shape[1], dtype=jnp.int32)
    starts, prefixes = jnp.asarray(layout.starts), jnp.asarray(layout.prefixes)

    def of(table: jax.Array, segments: jax.Array) -> jax.Array:
        return jnp.take_along_axis(table, segments, axis=1)[:, :, None]

    own = jnp.take_along_axis(jnp.asarray(layout.segments), places, axis=1)  # [R, N]
    followed = jnp.maximum(of(prefixes, own)[..., 0], 0)
    end = of(starts, followed) + of(jnp.asarray(layout.lengths), followed)
    of_prefix = (of(prefixes, own) != NO_PREFIX) & (of(starts, followed) <= tokens) & (tokens < end)
    of_own = (of(starts, own) <= tokens) & (tokens <= jnp.asarray(places)[:, :, None])
    return of_prefix | of_own | (tokens < layout.shared)
