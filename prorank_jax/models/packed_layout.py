"""Rows in which prompts of any length stand behind each other, with nothing between them.

All that treats tokens one by one runs over such a row as it is, so that no padding is multiplied by weights,
and what prompts start with alike is there once. Attention alone needs to know prompts apart: see `packed`.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

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
        shared: tokens that each row begins with, in no segment, which all of its segments follow; 0: none.
    """

    positions: Array
    segments: Array
    starts: Array
    lengths: Array
    prefixes: Array
    width: int = flax.struct.field(pytree_node=False)
    prefix_width: int = flax.struct.field(pytree_node=False)
    shared: int = flax.struct.field(pytree_node=False, default=0)


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
    return _behind_each_other(jnp.asarray(lengths), jnp.asarray(before)[:, None], width, tokens, shared=0)


def packed_prompts_layout(lengths: Array, shared: int, width: int, tokens: int) -> PackedLayout:
    """The layout of rows [R, T] with what all prompts begin with, once, and the rest of n prompts behind it.

    Args:
        lengths: [R, n] int32 tokens of each rest, at least 1.
        shared: tokens that all begin with; 0: none, and segments are whole prompts.
        width: S, at least the longest rest.
        tokens: T, at least what all begin with and a row's rests together.
    """
    return _behind_each_other(jnp.asarray(lengths), shared, width, tokens, shared)


def _behind_each_other(
    lengths: jax.Array, before: Array | int, width: int, tokens: int, shared: int
) -> PackedLayout:
    """Segments [R, E] from place `shared` on in rows of `tokens`; each follows `before` [R, 1] tokens.

    What stands before them is counted with the first one, whose positions go on from there.
    """
    ends = shared + jnp.cumsum(lengths, axis=1)
    starts = ends - lengths
    place = jnp.arange(tokens, dtype=jnp.int32)
    segments = (place[:, None] >= ends[:, None, :-1]).sum(axis=-1, dtype=jnp.int32)
    positions = place - jnp.take_along_axis(starts, segments, axis=1) + before
    none = jnp.full_like(starts, NO_PREFIX)
    return PackedLayout(positions, segments, starts, lengths, none, width, prefix_width=0, shared=shared)


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
        is_placed=(within >= 0) & (within < jnp.take_along_axis(lengths, layout.segments, axis=1)),
        segments=segments,
    )


def take_apart(tokens: jax.Array, order: SegmentOrder) -> jax.Array:
    """Tokens of rows as padded segments: [R, T, heads, C] → [R, E·S, heads, C]; anything at padding."""
    return reorder(tokens, order.places, order.slots, order.is_placed)


def put_together(segments: jax.Array, order: SegmentOrder) -> jax.Array:
    """The inverse of `take_apart`: [R, E·S, heads, C] → [R, T, heads, C]; anything at filler."""
    return reorder(segments, order.slots, order.places, order.is_token)
