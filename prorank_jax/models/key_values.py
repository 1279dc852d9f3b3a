"""What attention keeps of tokens that were read, for those that come behind them."""

from __future__ import annotations

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from prorank_jax.types import Array


@flax.struct.dataclass
class KeyValues:
    """Rotated keys and values: [B, S, J, C] of one layer, or [M, B, S, J, C] of M layers."""

    keys: Array
    values: Array


@flax.struct.dataclass
class LayerKeyValues:
    """Rotated keys and values of all N layers.

    Attributes:
        stacked: [M, B, S, J, C] of the first M layers.
        last: [B, S, J, C] of the last layer where that stands apart (M = N − 1); None: M = N. Put into the
            stack, they would make a second copy of all of it.
    """

    stacked: KeyValues
    last: KeyValues | None = None


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def for_rows(shared: jax.Array, rows: int) -> jax.Array:
    """What rows that follow each other share, for each of them: [B, ...] → [rows, ...], a multiple of B.

    The gradient is summed over the rows in float32. In bfloat16, one that is small beside the sum of those
    before it would be lost.
    """
    return shared if rows == shared.shape[0] else jnp.repeat(shared, rows // shared.shape[0], axis=0)


def _for_rows_forward(shared: jax.Array, rows: int) -> tuple[jax.Array, int]:
    return for_rows(shared, rows), shared.shape[0]


def _for_rows_backward(rows: int, shared: int, gradient: jax.Array) -> tuple[jax.Array]:
    if rows == shared:
        return (gradient,)
    apart = gradient.reshape(shared, rows // shared, *gradient.shape[1:])
    return (apart.astype(jnp.float32).sum(axis=1).astype(gradient.dtype),)


for_rows.defvjp(_for_rows_forward, _for_rows_backward)
