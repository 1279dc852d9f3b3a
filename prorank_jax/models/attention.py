"""Attention behind one signature, and the mask that lets completions share their prompt."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from prorank_jax.models.fused import (
    HEAD_MULTIPLE,
    LARGEST_HEAD,
    SHORTEST_ROW,
    OneSequence,
    fused_attention,
)
from prorank_jax.models.packed import PackedRows, packed_attention, packed_rows, packed_visibility
from prorank_jax.models.packed_layout import PackedLayout, prefix_lengths
from prorank_jax.models.plain import (
    CausalBlocks,
    causal_attention,
    dot_product_attention,
    leaves_blocks_out,
)
from prorank_jax.models.splash import LANES, PrefixCausal, splash_attention
from prorank_jax.types import Array

Visibility = Array | PrefixCausal | CausalBlocks | OneSequence | PackedRows
"""Who sees whom: a mask [B, Q, S] bool, or what stands in its place where the order is known."""

PROMPT_SEGMENT = 0
PADDING_SEGMENT = -1


@flax.struct.dataclass
class TokenLayout:
    """Where each token of a row stands; from two of these follows who sees whom.

    Attributes:
        positions: [B, Q] int32 position in the token's own sequence, for rotary embedding and causality.
        segments: [B, Q] int32; 0 is the prompt, g ≥ 1 the g-th completion, −1 padding.
        sequences: how many equally long sequences stand side by side, each in the order of its tokens
            and padded on the right; None: the tokens stand in no order known before they are (a cache).
    """

    positions: Array
    segments: Array
    sequences: int | None = flax.struct.field(pytree_node=False, default=None)


def prompt_layout(lengths: Array, width: int) -> TokenLayout:
    """The layout of prompts padded on the right to `width`; `lengths` is [B] int32."""
    batch = lengths.shape[0]
    positions = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (batch, width))
    segments = jnp.where(positions < lengths[:, None], PROMPT_SEGMENT, PADDING_SEGMENT)
    return TokenLayout(positions, segments, sequences=1)


def completion_layout(lengths: Array, group: int, width: int) -> TokenLayout:
    """The layout of `group` completions of `width` tokens each, all following one prompt: [B, G·width]."""
    batch = lengths.shape[0]
    offsets = jnp.tile(jnp.arange(width, dtype=jnp.int32), group)
    segments = jnp.repeat(jnp.arange(1, group + 1, dtype=jnp.int32), width)
    segments = jnp.broadcast_to(segments, (batch, group * width))
    return TokenLayout(lengths[:, None] + offsets, segments, sequences=group)


def concatenate_layouts(first: TokenLayout, second: TokenLayout) -> TokenLayout:
    """Two layouts side by side along the token axis."""
    return TokenLayout(
        jnp.concatenate([first.positions, second.positions], axis=1),
        jnp.concatenate([first.segments, second.segments], axis=1),
    )


def visibility(queries: TokenLayout, keys: TokenLayout) -> jax.Array:
    """Who sees whom: [B, Q, S] bool.

    A key is visible when it is no padding, stands at or before the query, and belongs to the prompt or
    to the query's own completion. Without completions this is the causal mask with padding.
    """
    key_segments = keys.segments[:, None, :]
    same_sequence = (key_segments == PROMPT_SEGMENT) | (key_segments == queries.segments[:, :, None])
    not_later = keys.positions[:, None, :] <= queries.positions[:, :, None]
    return same_sequence & not_later & (key_segments != PADDING_SEGMENT)


def visibility_at(places: Array, layout: TokenLayout | PackedLayout, prefix: TokenLayout | None) -> jax.Array:
    """Who the tokens at some places of each row see: [B, R] int32 → [B, R, S] bool.

    Args:
        prefix: layout of the prefix, whose keys stand first; None without one.
    """
    if isinstance(layout, PackedLayout):
        seen = packed_visibility(layout, places)
        if prefix is None:
            return seen
        before = (jnp.asarray(prefix.segments) != PADDING_SEGMENT)[:, None]
        before = jnp.broadcast_to(before, (*seen.shape[:2], before.shape[2]))
        return jnp.concatenate([before, seen], axis=2)
    read = TokenLayout(
        jnp.take_along_axis(jnp.asarray(layout.positions), places, axis=1),
        jnp.take_along_axis(jnp.asarray(layout.segments), places, axis=1),
    )
    return visibility(read, layout if prefix is None else concatenate_layouts(prefix, layout))


def visibility_for(
    implementation: str, layout: TokenLayout | PackedLayout, prefix: TokenLayout | None
) -> Visibility:
    """Who sees whom, in the form that the implementation takes.

    Where a row is one sequence in order, plain attention leaves out blocks that causality hides. The kernels
    need sequences in a known order, cuDNN's one to a row. Below one block of queries (a decode step, a
    group's one-token completions) plain attention is used all the same: a block would be mostly padding,
    and the few rows of logits take little memory.

    Args:
        implementation: `xla`, `splash`, `cudnn`, or, on every backend, `splash_interpreted`, which is slow,
            and `cudnn_emulated`, which is the same around jax's own attention.
        layout: of the queries, whose own keys stand behind those of the prefix.
        prefix: layout of the prefix; None without one. All segments of a packed row follow it.
    """
    if isinstance(layout, PackedLayout):
        apart = visibility_for(implementation, *_segments_apart(layout, prefix))
        if not layout.shared:
            return packed_rows(layout, apart)
        shared = jnp.full(layout.starts.shape[:1], layout.shared, jnp.int32)
        within_shared = visibility_for(implementation, prompt_layout(shared, layout.shared), None)
        return packed_rows(layout, apart, within_shared)
    queries = layout.positions.shape[1]
    in_order = layout.sequences is not None and (prefix is None or prefix.sequences == 1)
    prefix_visible = None if prefix is None else jnp.asarray(prefix.segments) != PADDING_SEGMENT
    one_sequence = in_order and layout.sequences == 1
    if implementation == "xla" and one_sequence and leaves_blocks_out(queries):
        return CausalBlocks(prefix_visible)
    if implementation.startswith("splash") and in_order and queries >= LANES:
        interpret = implementation == "splash_interpreted"
        return PrefixCausal(prefix_visible, layout.sequences or 1, interpret)
    if implementation.startswith("cudnn") and one_sequence and queries >= SHORTEST_ROW:
        kernel = "cudnn" if implementation == "cudnn" else "xla"
        return OneSequence(_real_tokens(layout), None if prefix is None else _real_tokens(prefix), kernel)
    return visibility(layout, layout if prefix is None else concatenate_layouts(prefix, layout))


def _segments_apart(
    layout: PackedLayout, prefix: TokenLayout | None
) -> tuple[TokenLayout, TokenLayout | None]:
    """The layout of segments as rows of their own [R·E, S], and of what they follow [R·E, P]."""
    segments = layout.starts.shape[1]
    own = prompt_layout(jnp.asarray(layout.lengths).reshape(-1), layout.width)
    if prefix is not None:
        prefix = jax.tree.map(lambda rows: jnp.repeat(rows, segments, axis=0), prefix)
        before = _real_tokens(prefix)
    elif layout.shared:
        before = jnp.full(own.positions.shape[:1], layout.shared, jnp.int32)
        prefix = prompt_layout(before, layout.shared)
    else:
        before = prefix_lengths(layout.lengths, layout.prefixes).reshape(-1)
        prefix = prompt_layout(before, layout.prefix_width) if layout.prefix_width else None
    return TokenLayout(own.positions + before[:, None], own.segments, sequences=1), prefix


def _real_tokens(layout: TokenLayout) -> jax.Array:
    return jnp.sum(jnp.asarray(layout.segments) != PADDING_SEGMENT, axis=1, dtype=jnp.int32)


def attend(query: Array, key: Array, value: Array, visible: Visibility) -> jax.Array:
    """Grouped-query attention by the implementation that `visible` was made for.

    Args:
        query: [B, Q, H, C]; key, value: [B, S, J, C], H a multiple of J; one dtype.

    Returns:
        [B, Q, H, C] in that dtype.
    """
    if isinstance(visible, PrefixCausal):
        return splash_attention(query, key, value, visible)
    if isinstance(visible, OneSequence):
        return fused_attention(query, key, value, visible)
    if isinstance(visible, PackedRows):
        return packed_attention(query, key, value, visible, attend)
    if isinstance(visible, CausalBlocks):
        return causal_attention(query, key, value, visible)
    return dot_product_attention(query, key, value, visible)


def check_implementation(implementation: str, compute_dtype: str, mesh: Mesh) -> None:
    """Raises a ValueError where an implementation cannot run on the devices of a mesh, or in a dtype."""
    platform = mesh.devices.flat[0].platform
    if implementation == "splash" and platform != "tpu":
        raise ValueError(f"model.attention='splash': runs on TPU only, not on {platform}; choose xla")
    if implementation == "cudnn" and platform != "gpu":
        raise ValueError(f"model.attention='cudnn': runs on NVIDIA GPUs only, not on {platform}; choose xla")
    if implementation == "cudnn" and compute_dtype != "bfloat16":
        raise ValueError(
            f"model.attention='cudnn': computes in bfloat16, not in {compute_dtype}; choose "
            "model.compute_dtype=bfloat16, or xla"
        )


def check_head_size(implementation: str, head_dim: int) -> None:
    """Raises a ValueError where an implementation cannot compute with heads of a size."""
    if implementation == "cudnn" and (head_dim % HEAD_MULTIPLE or head_dim > LARGEST_HEAD):
        raise ValueError(
            f"model.attention='cudnn': the model's heads have {head_dim} dimensions, cuDNN takes multiples "
            f"of {HEAD_MULTIPLE} up to {LARGEST_HEAD}; choose xla"
        )
