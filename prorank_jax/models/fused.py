"""cuDNN's fused attention, for NVIDIA GPUs: no logits in memory, forward or backward.

The kernel knows one mask that costs nothing: causal, over rows of given lengths padded on the right. So a
row that follows a prefix is put in the order of its positions: the prefix's real tokens, the row's own, then
what the prefix was padded with. Queries stand in the same order, with zeros in the places of the prefix.
What those compute is thrown away; of P prefix and Q own tokens it is about the share (P / (P + Q))² of the
products. The other exact forms cost more: a mask becomes a dense bias, and two calls joined by the logarithms
of their softmax sums have no gradient, since the kernel gives none for those.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from prorank_jax.models.over_mesh import over_mesh
from prorank_jax.models.reorder import reorder
from prorank_jax.types import Array

# Shorter rows use plain attention: a block of the kernel would be mostly padding, and their logits are small.
SHORTEST_ROW = 64
HEAD_MULTIPLE, LARGEST_HEAD = 8, 128


@flax.struct.dataclass
class OneSequence:
    """Rows of one sequence each, padded on the right, which follow a prefix or none.

    A query sees the real tokens of the prefix, and of its own sequence itself and what stands before.

    Attributes:
        lengths: [B] int32, real tokens of the row itself.
        prefix_lengths: [B] int32, those of its prefix; None without one.
        implementation: of `jax.nn.dot_product_attention`: `cudnn`, or `xla` on other devices.
    """

    lengths: Array
    prefix_lengths: Array | None
    implementation: str = flax.struct.field(pytree_node=False, default="cudnn")


def fused_attention(query: Array, key: Array, value: Array, seen: OneSequence) -> jax.Array:
    """Grouped-query attention with a float32 softmax, keys and values not repeated for their queries.

    Args:
        query: [B, Q, H, C]; key, value: [B, P + Q, J, C], prefix first, H a multiple of J; one dtype, for
            cuDNN bfloat16.

    Returns:
        [B, Q, H, C] in that dtype; zero at padding.

    Raises:
        ValueError: the mesh's batch axes do not divide B.
    """
    lengths = [array for array in (seen.lengths, seen.prefix_lengths) if array is not None]
    arguments = [jnp.asarray(array) for array in (query, key, value, *lengths)]
    attend: Any = _attend if seen.prefix_lengths is None else _attend_after_prefix
    attend = partial(attend, implementation=seen.implementation)
    return over_mesh(attend, query.shape, key.shape[2])(*arguments)


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array, *, implementation: str
) -> jax.Array:
    """Causal attention of rows [B, T, heads, C] of which the first `lengths` [B] tokens are real."""
    lengths = jnp.maximum(lengths, 1)  # a softmax over nothing would be NaN
    attention = partial(jax.nn.dot_product_attention, implementation=implementation, is_causal=True)
    return attention(query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths)


def _attend_after_prefix(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    lengths: jax.Array,
    prefix_lengths: jax.Array,
    *,
    implementation: str,
) -> jax.Array:
    own, slots = query.shape[1], key.shape[1]
    prefix = slots - own
    sources, targets = position_order(prefix_lengths, prefix, own)
    query = jnp.pad(query, ((0, 0), (prefix, 0), (0, 0), (0, 0)))
    query, key, value = (reorder(rows, sources, targets) for rows in (query, key, value))
    mixed = _attend(query, key, value, prefix_lengths + lengths, implementation=implementation)
    return reorder(mixed, targets, sources)[:, prefix:]


def position_order(prefix_lengths: jax.Array, prefix: int, own: int) -> tuple[jax.Array, jax.Array]:
    """The order by position of rows with `prefix` slots, then `own`; the prefix's padding goes last.

    Args:
        prefix_lengths: [B] int32.

    Returns:
        Two [B, prefix + own] int32, each other's inverse: which slot comes to each place, and to which
        place each slot goes.
    """
    places = jnp.arange(prefix + own, dtype=jnp.int32)[None]
    real = prefix_lengths[:, None]
    moved_back = jnp.where(places < real + own, places + prefix - real, places - own)
    sources = jnp.where(places < real, places, moved_back)
    moved_on = jnp.where(places < prefix, places + own, places - prefix + real)
    return sources, jnp.where(places < real, places, moved_on)
