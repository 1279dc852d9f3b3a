"""Rows a few after the others, so that what is computed of them stays in a CPU's caches."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from prorank_jax.models.over_mesh import on_one_cpu
from prorank_jax.models.products import wide_on_cpu

CACHED_BYTES_OF_A_CORE = 2 * 2**20

OfRows = Callable[..., tuple[jax.Array, ...]]


def fits_caches(size: int) -> bool:
    """Whether the caches of all cores hold so many bytes."""
    return size <= CACHED_BYTES_OF_A_CORE * (os.cpu_count() or 1)


def rows_at_once(rows: int, bytes_of_row: int) -> int:
    """The largest divisor of `rows` of which the caches hold so many bytes each; at least 1."""
    fitting = (some for some in range(1, rows + 1) if rows % some == 0 and fits_caches(some * bytes_of_row))
    return max(fitting, default=1)


def in_row_parts(of_rows: OfRows, bytes_of_row: int, visible: Any, *arrays: Any) -> tuple[jax.Array, ...]:
    """`of_rows(visible, *arrays)`; on a single CPU device, where the rows are many, in parts.

    Otherwise each of its operations would fetch what it makes of all rows from memory and write it back.
    Compilers for other devices arrange that themselves, and over several devices the rows are split already.

    Args:
        bytes_of_row: what `of_rows` makes of one row on the way.
        visible: [B, ...], or [1, ...] for all rows.
        arrays: with B first, as the results are.
    """
    rows = arrays[0].shape[0]
    at_once = rows_at_once(rows, bytes_of_row) if on_one_cpu() else rows
    if at_once == rows:
        return of_rows(visible, *arrays)
    dtypes: list[jnp.dtype] = []

    def of_part(*part: Any) -> tuple[jax.Array, ...]:
        results = of_rows(*part)
        dtypes[:] = [result.dtype for result in results]
        return tuple(map(wide_on_cpu, results))  # what a scan collects; see `remat.named`

    def split(array: Any) -> jax.Array:
        return jnp.asarray(array).reshape(-1, at_once, *array.shape[1:])

    parts = tuple(map(split, arrays))
    if visible.shape[0] == rows:
        results = jax.lax.map(lambda part: of_part(*part), (split(visible), *parts))
    else:
        results = jax.lax.map(lambda part: of_part(visible, *part), parts)
    joined = (result.reshape(rows, *result.shape[2:]) for result in results)
    return tuple(result.astype(dtype) for result, dtype in zip(joined, dtypes, strict=True))
