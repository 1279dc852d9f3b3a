"""Splash attention: Pallas' flash attention for TPU, with blocks that nobody sees left out.

The mask is split in two. What follows from the shapes is static: every query sees the whole prefix and,
causally, its own sequence. What follows from the data is which slots of the prefix are padding; that
travels as segment ids. Padding on the right of the row's own sequences needs neither: causality hides it
from every token before it, and nobody reads what stands at padding.
"""

from __future__ import annotations

import math
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from prorank_jax.models.over_mesh import over_mesh
from prorank_jax.models.remat import ATTENDED
from prorank_jax.types import Array

LANES = 128  # the width of a TPU's vector registers: blocks are multiples of it
LARGEST_BLOCK = 512
# The fused backward kernel multiplies five times for each block instead of seven, but makes one gradient
# of the queries for each block of keys, to be added up: with many blocks those outgrow what it saves.
MOST_FUSED_BLOCKS = 4
_VISIBLE, _HIDDEN = 0, 1


@flax.struct.dataclass
class PrefixCausal:
    """Rows of equally long sequences side by side, which all follow one prefix.

    A query sees the visible slots of the prefix, and of its own sequence itself and what stands before.

    Attributes:
        prefix_visible: [B, P] bool, false at padding; None without a prefix.
        sequences: how many stand side by side; they divide the row's length.
        interpret: runs the kernel in Pallas' interpreter, on any backend.
    """

    prefix_visible: Array | None
    sequences: int = flax.struct.field(pytree_node=False)
    interpret: bool = flax.struct.field(pytree_node=False, default=False)


def splash_attention(query: Array, key: Array, value: Array, seen: PrefixCausal) -> jax.Array:
    """Grouped-query attention with a float32 softmax, on TPU.

    Args:
        query: [B, Q, H, C]; key, value: [B, P + Q, J, C], prefix first, H a multiple of J; one dtype.

    Returns:
        [B, Q, H, C] in that dtype. What stands at padding is finite and means nothing.

    Raises:
        ValueError: the mesh's batch axes do not divide B.
    """
    arguments = [jnp.asarray(query), jnp.asarray(key), jnp.asarray(value)]
    if seen.prefix_visible is not None:
        arguments.append(jnp.asarray(seen.prefix_visible))

    attend = partial(_attend, sequences=seen.sequences, interpret=seen.interpret)
    return over_mesh(attend, query.shape, key.shape[2])(*arguments)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    prefix_visible: jax.Array | None = None,
    *,
    sequences: int,
    interpret: bool,
) -> jax.Array:
    """Attention of the rows and heads of one device."""
    batch, queries, heads, head_dim = query.shape
    keys = key.shape[1]
    query_block, query_slots = _blocks(queries)
    key_block, key_slots = _blocks(keys)
    seen = _static_mask(queries, keys, query_slots, key_slots, sequences)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([seen] * heads),
        block_sizes=_block_sizes(query_block, key_block, key_slots // key_block),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
    segments = None
    if prefix_visible is not None:
        hidden = jnp.where(prefix_visible, _VISIBLE, _HIDDEN)
        of_keys = jnp.pad(hidden, ((0, 0), (0, key_slots - hidden.shape[1])), constant_values=_VISIBLE)
        segments = kernels.SegmentIds(jnp.full((batch, query_slots), _VISIBLE, of_keys.dtype), of_keys)
    scaled = (query.astype(jnp.float32) / math.sqrt(head_dim)).astype(query.dtype)
    mixed = jax.vmap(kernel)(  # [B, H, slots, C]
        _heads_first(scaled, query_slots),
        _heads_first(key, key_slots),
        _heads_first(value, key_slots),
        segments,
    )
    return jnp.swapaxes(mixed, 1, 2)[:, :queries]


def _blocks(length: int) -> tuple[int, int]:
    """The size of a block, and the slots that the fewest blocks which hold a length fill."""
    count = -(-length // LARGEST_BLOCK)
    block = LANES * -(-length // (count * LANES))
    return block, count * block


def _block_sizes(query_block: int, key_block: int, key_blocks: int) -> kernels.BlockSizes:
    fused = key_blocks <= MOST_FUSED_BLOCKS
    return kernels.BlockSizes(
        block_q=query_block,
        block_kv=key_block,
        block_q_dkv=query_block,
        block_kv_dkv=key_block,
        block_q_dq=None if fused else query_block,
        block_kv_dq=None if fused else key_block,
        use_fused_bwd_kernel=fused,
    )


def _static_mask(queries: int, keys: int, query_slots: int, key_slots: int, sequences: int) -> masks.Mask:
    """Who sees whom, a prefix's padding aside; slots behind the queries see something too, never nothing."""
    prefix = keys - queries
    if sequences == 1:
        return masks.CausalMask((query_slots, key_slots), offset=prefix)
    own, seen = np.arange(query_slots)[:, None], np.arange(key_slots)[None, :] - prefix
    width = queries // sequences
    same = (own // width == seen // width) | (own >= queries)
    return masks.NumpyMask((seen < 0) | (same & (seen <= own)))


def _heads_first(rows: jax.Array, slots: int) -> jax.Array:
    """[B, T, heads, C] → [B, heads, slots, C], filled up with zeros."""
    filled = jnp.pad(rows, ((0, 0), (0, slots - rows.shape[1]), (0, 0), (0, 0)))
    return jnp.swapaxes(filled, 1, 2)
