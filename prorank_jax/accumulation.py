"""A batch computed in parts, one after the other, so that only one part's activations are in memory.

Averages must divide by the whole batch's totals; then the parts' gradients and metrics add up to the batch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")
Outcome = TypeVar("Outcome")


def split_into_parts(batch: Tree, count: int) -> Tree:
    """A tree of rows [B, …] as `count` trees, stacked to [count, B / count, …].

    Part p has rows p, p + count, and so on: devices hold blocks of neighbouring rows, so each part has rows
    of every device and none moves.
    """

    def split(rows: Any) -> Any:
        parts = jnp.swapaxes(rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]), 0, 1)
        return nn.with_logical_constraint(parts, (None, "batch", *(None for _ in rows.shape[1:])))

    return jax.tree.map(split, batch)


def join_parts(parts: Tree) -> Tree:
    """The inverse of `split_into_parts`."""
    return jax.tree.map(lambda rows: jnp.swapaxes(rows, 0, 1).reshape(-1, *rows.shape[2:]), parts)


def map_parts(of_part: Callable[[Any], Outcome], batch: Any, count: int) -> Outcome:
    """The rows that `of_part` gives for each part of a batch, in the order of the batch."""
    if count == 1:
        return of_part(batch)
    return join_parts(jax.lax.map(of_part, split_into_parts(batch, count)))


def sum_parts(of_part: Callable[[Any], Outcome], batch: Any, count: int) -> Outcome:
    """The sum of what `of_part` gives for each part of a batch, in the dtype it gives."""
    if count == 1:
        return of_part(batch)
    of_part = jax.jit(of_part, inline=True)  # traced once for its outcome's shapes and for the sum
    parts = split_into_parts(batch, count)
    first = jax.tree.map(lambda rows: rows[0], parts)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, first))
    total: Outcome
    total, _ = jax.lax.scan(
        lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(part)), None), nothing, parts
    )
    return total
