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
        places: [R, E, S] int32 the row's token at each place of each padded segment.
        prefix_places: [R, E, P] int32 of the segment that it follows; None where none follows another.
        slots: [R, T] int32 of each token, its place among all E·S of its row.
        apart: who sees whom where segments are rows of their own, [R·E, S] behind [R·E, P].
    """

    places: Array
    prefix_places: Array | None
    slots: Array
    apart: Any


def packed_layout(batch: PackedBatch) -> PackedLayout:
    """The layout of a batch's rows."""
    starts, prefixes = jnp.asarray(batch.starts), jnp.asarray(batch.prefixes)
    before = _of_prefix(jnp.asarray(batch.lengths), prefixes)
    first = jnp.take_along_axis(starts - before, batch.segments, axis=1)
    return PackedLayout(
        positions=jnp.arange(batch.tokens.shape[1], dtype=jnp.int32) - first,
        segments=batch.segments,
        starts=starts,
        lengths=batch.lengths,
        prefixes=prefixes,
        width=batch.width,
        prefix_width=batch.prefix_width,
    )


def prefix_lengths(layout: PackedLayout) -> jax.Array:
    """Tokens of the segment that each one follows: [R, E] int32, 0 where it follows none."""
    return _of_prefix(jnp.asarray(layout.lengths), jnp.asarray(layout.prefixes))


def _of_prefix(lengths: jax.Array, prefixes: jax.Array) -> jax.Array:
    taken = jnp.take_along_axis(lengths, jnp.maximum(prefixes, 0), axis=1)
    return jnp.where(prefixes == NO_PREFIX, 0, taken)


def packed_rows(layout: PackedLayout, apart: Any) -> PackedRows:
    """Who sees whom in rows of a layout.

    Args:
        apart: the same where segments are rows of their own.
    """
    tokens = layout.positions.shape[1]
    starts, prefixes = jnp.asarray(layout.starts), jnp.asarray(layout.prefixes)

    def places(first: jax.Array, width: int) -> jax.Array:
        return jnp.minimum(first[:, :, None] + jnp.arange(width, dtype=jnp.int32), tokens - 1)

    first = jnp.take_along_axis(starts, layout.segments, axis=1)  # [R, T]
    within = jnp.clip(jnp.arange(tokens, dtype=jnp.int32) - first, 0, layout.width - 1)
    of_prefix = None
    if layout.prefix_width:
        followed = jnp.take_along_axis(starts, jnp.maximum(prefixes, 0), axis=1)
        of_prefix = places(followed, layout.prefix_width)
    return PackedRows(
        places=places(starts, layout.width),
        prefix_places=of_prefix,
        slots=jnp.asarray(layout.segments) * layout.width + within,
        apart=apart,
    )


def packed_attention(
    query: Array, key: Array, value: Array, seen: PackedRows, attend: Callable[..., jax.Array]
) -> jax.Array:
    """Grouped-query attention within packed rows.

    Args:
        query: [R, T, H, C]; key, value: [R, T, J, C], H a multiple of J; one dtype.
        attend: attention of rows apart, by `seen.apart`.

    Returns:
        [R, T, H, C] in that dtype. What stands at filler is finite and means nothing.
    """
    rows, segments, width = seen.places.shape

    def taken(tokens: Array, places: Array) -> jax.Array:
        """[R, T, heads, C] → [R·E, places, heads, C]."""
        found = _tokens_at(tokens, places.reshape(rows, -1))
        return found.reshape(rows * segments, places.shape[2], *tokens.shape[2:])

    def with_prefix(tokens: Array) -> jax.Array:
        own = taken(tokens, seen.places)
        if seen.prefix_places is None:
            return own
        return jnp.concatenate([taken(tokens, seen.prefix_places), own], axis=1)

    mixed = attend(taken(query, seen.places), with_prefix(key), with_prefix(value), seen.apart)
    return _tokens_at(mixed.reshape(rows, segments * width, *query.shape[2:]), seen.slots)


def _tokens_at(tokens: Array, places: Array) -> jax.Array:
    """[R, T, heads, C] at [R, N] → [R, N, heads, C]."""
    return jnp.take_along_axis(
        jnp.asarray(tokens), places[:, :, None, None], axis=1, mode="promise_in_bounds"
    )


def visibility_at_ends(layout: PackedLayout) -> jax.Array:
    """Who the last token of each segment sees, of all of its row: [R, E, T] bool."""
    tokens = jnp.arange(layout.positions.shape[1], dtype=jnp.int32)
    starts, lengths = (jnp.asarray(table)[:, :, None] for table in (layout.starts, layout.lengths))
    within = (starts <= tokens) & (tokens < starts + lengths)
    prefixes = jnp.asarray(layout.prefixes)[:, :, None]
    followed = jnp.take_along_axis(within, jnp.maximum(prefixes, 0), axis=1)
    return within | (followed & (prefixes != NO_PREFIX))
