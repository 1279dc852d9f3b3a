"""Rows of tokens in another order, whose gradient is gathered too."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prorank_jax.types import Array


@jax.custom_vjp
def reorder(rows: jax.Array, sources: Array, targets: Array, is_read: Array | None = None) -> jax.Array:
    """Tokens of rows [B, T, heads, C] at `sources` [B, N] → [B, N, heads, C].

    Left to itself, the gradient would be scattered and added, slowly, as if a token could be asked for twice.

    Args:
        sources: within each row; no token that counts is there twice.
        targets: [B, T] where each token went; any for one that went nowhere, or does not count.
        is_read: [B, T] bool, whether it went anywhere and counts there; None: all do.
    """
    del targets, is_read
    return jnp.take_along_axis(rows, sources[:, :, None, None], axis=1, mode="promise_in_bounds")


def _reorder_forward(
    rows: jax.Array, sources: Array, targets: Array, is_read: Array | None
) -> tuple[jax.Array, tuple[Array, Array, Array | None]]:
    return reorder(rows, sources, targets, is_read), (sources, targets, is_read)


def _reorder_backward(
    orders: tuple[Array, Array, Array | None], gradient: jax.Array
) -> tuple[jax.Array, None, None, None]:
    sources, targets, is_read = orders
    back = reorder(gradient, targets, sources)
    if is_read is not None:
        back = jnp.where(is_read[:, :, None, None], back, jnp.zeros((), back.dtype))
    return back, None, None, None


reorder.defvjp(_reorder_forward, _reorder_backward)
