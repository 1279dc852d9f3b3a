"""Random rows for attention, what real queries get of them, and gradients."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prorank_jax.models.attention import (
    PADDING_SEGMENT,
    TokenLayout,
    attend,
    completion_layout,
    prompt_layout,
    visibility_for,
)
from prorank_jax.models.fused import OneSequence
from prorank_jax.models.splash import PrefixCausal
from prorank_jax.types import Array


class Rows(NamedTuple):
    """What attention is given, and which of the queries are no padding."""

    arrays: tuple[jax.Array, ...]
    layout: TokenLayout
    prefix: TokenLayout | None

    @property
    def real(self) -> np.ndarray:
        return np.asarray(self.layout.segments) != PADDING_SEGMENT


def layouts(
    lengths: Array | tuple[int, ...], prefix: int, sequences: int, width: int
) -> tuple[TokenLayout, TokenLayout | None]:
    """Sequences after a prefix padded to `prefix` slots; without one, prompts of the lengths given."""
    lengths = jnp.asarray(lengths, jnp.int32)
    if not prefix:
        return prompt_layout(lengths, width), None
    return completion_layout(lengths, sequences, width), prompt_layout(lengths, prefix)


def random_rows(
    lengths: tuple[int, ...],
    prefix: int,
    sequences: int,
    width: int,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    dtype: str = "float32",
) -> Rows:
    rng = np.random.default_rng(width)
    queries = sequences * width
    shapes = ((queries, heads), (prefix + queries, kv_heads), (prefix + queries, kv_heads))
    arrays = tuple(jnp.asarray(rng.normal(size=(len(lengths), *shape, head_dim)), dtype) for shape in shapes)
    return Rows(arrays, *layouts(lengths, prefix, sequences, width))


@partial(jax.jit, static_argnums=0)
def values_and_gradients(implementation: str, rows: Rows) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What each real query gets, and the gradient of a random weighting of that."""
    visible = visibility_for(implementation, rows.layout, rows.prefix)
    plain = not isinstance(visible, PrefixCausal | OneSequence)
    assert plain == (implementation == "xla"), "an implementation fell back to plain attention"
    real = (jnp.asarray(rows.layout.segments) != PADDING_SEGMENT)[:, :, None, None]
    weights = jax.random.normal(jax.random.key(1), rows.arrays[0].shape)

    def weighted(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed = jnp.where(real, attend(*arrays, visible).astype(jnp.float32), 0)
        return (mixed * weights).sum(), mixed

    gradients, mixed = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)(*rows.arrays)
    return mixed, gradients


def assert_close(ours: object, theirs: object, atol: float) -> None:
    for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        got, expected = np.asarray(got, np.float32), np.asarray(expected, np.float32)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, expected, atol=atol * np.abs(expected).max(), rtol=0)
