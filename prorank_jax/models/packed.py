"""Rows in which prompts of any length stand behind each other, with nothing between them.

All that treats tokens one by one runs over such a row as it is, so that no padding is multiplied by weights,
and what prompts start with alike stands there once. Attention alone needs to know prompts apart: for it they
are taken out of their row, padded, and put back, which moves little beside what the weights multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from prorank_jax.models.key_values import for_rows
from prorank_jax.models.reorder import reorder
from prorank_jax.types import Array, PackedBatch

NO_PREFIX = -1


@flax.struct.dataclass
class PackedLayout:
    """Where each token of packed rows stands: R rows of T tokens, in up to E segments each.

    A segment is a prompt, what several prompts start with, or the rest of one of those, which follows it.

    Attributes:
        positions: [R, T] int32 position in the token's own prompt.
        segments: [R, T] int32 the segment of each token.
        starts: [R, E] int32 place of each segment's first token.
        lengths: [R, E] int32 its tokens, at least 1.
        prefixes: [R, E] int32 the segment that it follows, `NO_PREFIX` for none.
        width: S, at least the longest segment.
        prefix_width: P, at least the longest segment that another one follows; 0 where none does.
    """

    positions: Array
    segments: Array
    starts: Array
    lengths: Array
    prefixes: Array
    width: int = flax.struct.field(pytree_node=False)
    prefix_width: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class PackedRows:
    """Who sees whom in packed rows: a token sees its own segment up to itself, and the one that it follows.

    Attributes:
        order: of tokens in their row, and in segments.
        prefix_places: [R, E, P] int32 the row's token at each place of the segment that each one follows;
            None where none follows another.
        apart: who sees whom where segments are rows of their own, [R·E, S] behind [R·E, P].
    """

    order: SegmentOrder
    prefix_places: Array | None
    apart: Any


@flax.struct.dataclass
class SegmentOrder:
    """The tokens of packed rows in the order of padded segments, and back.

    Attributes:
        places: [R, E·S] int32 the row's token at each place of each segment; any at padding.
        is_token: [R, E·S] bool, false at padding.
        slots: [R, T] int32 where each token stands among those; any at filler.
        is_placed: [R, T] bool, false at filler.
        segments: E.
    """

    places: Array
    is_token: Array
    slots: Array
    is_placed: Array
    segments: int = flax.struct.field(pytree_node=False)


def packed_layout(batch: PackedBatch) -> PackedLayout:
    """The layout of a batch's rows."""
    starts = jnp.asarray(batch.starts)
    before = prefix_lengths(batch.lengths, batch.prefixes)
    first = jnp.take_along_axis(starts - before, batch.segments, axis=1)
    return PackedLayout(
        positions=jnp.arange(batch.tokens.shape[1], dtype=jnp.int32) - first,
        segments=batch.segments,
        starts=starts,
        lengths=batch.lengths,
        prefixes=batch.prefixes,
        width=batch.width,
        prefix_width=batch.prefix_width,
    )


def prefix_lengths(lengths: Array, prefixes: Array) -> jax.Array:
    """Tokens of the segment that each one follows: [R, E] int32, 0 where it follows none."""
    taken = jnp.take_along_axis(jnp.asarray(lengths), jnp.maximum(prefixes, 0), axis=1)
    return jnp.where(prefixes == NO_PREFIX, 0, taken)


def packed_lists_layout(lengths: Array, before: Array, width: int, tokens: int) -> PackedLayout:
    """The layout of rows [Q, T] with the documents of a list each, all of which follow the same prefix.

    Args:
        lengths: [Q, K] int32 tokens of each document, at least 1.
        before: [Q] int32 tokens of the prefix, which is no part of the row.
        width: S, at least the longest document.
        tokens: T, at least what a list's documents have together.
    """
    lengths = jnp.asarray(lengths)
    ends = jnp.cumsum(lengths, axis=1)
    starts = ends - lengths
    place = jnp.arange(tokens, dtype=jnp.int32)
    segments = (place[:, None] >= ends[:, None, :-1]).sum(axis=-1, dtype=jnp.int32)  # [Q, T]
    first = jnp.take_along_axis(starts, segments, axis=1) - jnp.asarray(before)[:, None]
    none = jnp.full_like(starts, NO_PREFIX)
    return PackedLayout(place - first, segments, starts, lengths, none, width, prefix_width=0)


def segment_order(layout: PackedLayout) -> SegmentOrder:
    """Where the tokens of rows stand in segments padded to `layout.width`."""
    tokens, width = layout.positions.shape[1], layout.width
    starts, lengths = jnp.asarray(layout.starts), jnp.asarray(layout.lengths)
    rows, segments = starts.shape
    offsets = jnp.arange(width, dtype=jnp.int32)
    within = jnp.arange(tokens, dtype=jnp.int32) - jnp.take_along_axis(starts, layout.segments, axis=1)
    return SegmentOrder(
        places=jnp.minimum(starts[:, :, None] + offsets, tokens - 1).reshape(rows, -1),
        is_token=(offsets < lengths[:, :, None]).reshape(rows, -1),
        slots=jnp.asarray(layout.segments) * width + jnp.clip(within, 0, width - 1),
        is_placed=within < jnp.take_along_axis(lengths, layout.segments, axis=1),
        segments=segments,
    )


def packed_rows(layout: PackedLayout, apart: Any) -> PackedRows:
    """Who sees whom in rows of a layout.

    Args:
        apart: the same where segments are rows of their own.
    """
    of_prefix = None
    if layout.prefix_width:
        prefixes = jnp.maximum(jnp.asarray(layout.prefixes), 0)
        first = jnp.take_along_axis(jnp.asarray(layout.starts), prefixes, axis=1)
        followed = first[:, :, None] + jnp.arange(layout.prefix_width, dtype=jnp.int32)
        of_prefix = jnp.minimum(followed, layout.positions.shape[1] - 1)
    return PackedRows(segment_order(layout), of_prefix, apart)


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
    segments = seen.order.segments

    def apart(of_row: Array) -> jax.Array:
        """[R, T, heads, C] → [R·E, S, heads, C]."""
        found = take_apart(jnp.asarray(of_row), seen.order)
        return found.reshape(rows * segments, -1, *of_row.shape[2:])

    def with_prefix(of_row: Array) -> jax.Array:
        own = apart(of_row[:, of_row.shape[1] - tokens :])
        if of_row.shape[1] > tokens:
            before = for_rows(jnp.asarray(of_row[:, : of_row.shape[1] - tokens]), rows * segments)
        elif seen.prefix_places is not None:
            found = _tokens_at(of_row, seen.prefix_places.reshape(rows, -1))
            before = found.reshape(rows * segments, -1, *of_row.shape[2:])
        else:
            return own
        return jnp.concatenate([before, own], axis=1)

    mixed = attend(apart(query), with_prefix(key), with_prefix(value), seen.apart)
    return put_together(mixed.reshape(rows, -1, *query.shape[2:]), seen.order)


def _tokens_at(tokens: Array, places: Array) -> jax.Array:
    """[R, T, heads, C] at [R, N] → [R, N, heads, C]."""
    return jnp.take_along_axis(
        jnp.asarray(tokens), places[:, :, None, None], axis=1, mode="promise_in_bounds"
    )


def take_apart(tokens: jax.Array, order: SegmentOrder) -> jax.Array:
    """Tokens of rows as padded segments: [R, T, heads, C] → [R, E·S, heads, C]; anything at padding."""
    return reorder(tokens, order.places, order.slots, order.is_placed)


def put_together(segments: jax.Array, order: SegmentOrder) -> jax.Array:
    """The inverse of `take_apart`: [R, E·S, heads, C] → [R, T, heads, C]; anything at filler."""
    return reorder(segments, order.slots, order.places, order.is_token)


def packed_visibility(layout: PackedLayout, places: Array) -> jax.Array:
    """Who the tokens at some places of each row see, of all of it: [R, N] int32 → [R, N, T] bool."""
    tokens = jnp.arange(layout.positions.shape[1], dtype=jnp.int32)
    starts, prefixes = jnp.asarray(layout.starts), jnp.asarray(layout.prefixes)

    def of(table: jax.Array, segments: jax.Array) -> jax.Array:
        return jnp.take_along_axis(table, segments, axis=1)[:, :, None]

    own = jnp.take_along_axis(jnp.asarray(layout.segments), places, axis=1)  # [R, N]
    followed = jnp.maximum(of(prefixes, own)[..., 0], 0)
    end = of(starts, followed) + of(jnp.asarray(layout.lengths), followed)
    of_prefix = (of(prefixes, own) != NO_PREFIX) & (of(starts, followed) <= tokens) & (tokens < end)
    return of_prefix | ((of(starts, own) <= tokens) & (tokens <= jnp.asarray(places)[:, :, None]))
