"""Fingerprints of arrays, by which a checkpoint read back is known to be what was saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
# On the CPU, XLA writes the product of each element down before it sums them.
_BLOCK_ELEMENTS = 1 << 18


def state_digests(tree: Any) -> dict[str, int]:
    """A 32-bit fingerprint of each leaf, by its path; the same however the leaf lies on its devices.

    The sum of the elements' bits, each times an odd number that depends on its place, modulo 2³². One
    flipped bit always changes it. Memory is taken for a block of each leaf, not for leaves. Processes that
    share the leaves' mesh all call it.

    Args:
        tree: of 32-bit arrays with at most five axes, on devices.
    """
    paths = jax.tree_util.tree_leaves_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    small = {name: leaf for name, leaf in leaves.items() if np.size(leaf) <= _BLOCK_ELEMENTS}
    parts = {name: _digests_of_parts(leaf) for name, leaf in leaves.items() if name not in small}
    digests = jax.device_get(_digests(small, parts))
    return {name: int(digests[name]) for name in leaves}


@jax.jit
def _digests(small: dict[str, jax.Array], parts: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of small leaves, and of large ones by the fingerprints of their parts."""
    sums = {name: jnp.sum(digests, dtype=jnp.uint32) for name, digests in parts.items()}
    return sums | {name: _digest(leaf) for name, leaf in small.items()}


def _digests_of_parts(leaf: jax.Array) -> jax.Array:
    """[parts] uint32, each on the devices that hold that part: no device sees another one's."""
    where = getattr(leaf, "sharding", None)
    if isinstance(where, NamedSharding) and not where.is_fully_replicated:
        return _digests_on_mesh(leaf, where.mesh, where.spec)
    return _digest_alone(leaf)


@jax.jit
def _digest_alone(leaf: jax.Array) -> jax.Array:
    return _digest_by_blocks(leaf, [0] * leaf.ndim, _BLOCK_ELEMENTS)[None]


@partial(jax.jit, static_argnums=(1, 2))
def _digests_on_mesh(leaf: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    axes = [_names(entry) for entry in (*spec, *[None] * (leaf.ndim - len(spec)))]

    def of_part(part: jax.Array) -> jax.Array:
        sizes = zip(axes, part.shape, strict=True)
        origin = [jax.lax.axis_index(names) * size if names else 0 for names, size in sizes]
        return _digest_by_blocks(part, origin, _BLOCK_ELEMENTS)[None]

    out = PartitionSpec(sum(axes, ()))
    # Replicas compute the same, which jax cannot see through a loop.
    return jax.shard_map(of_part, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)(leaf)


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry or ()


def _digest_by_blocks(part: jax.Array, origin: Sequence[Any], limit: int) -> jax.Array:
    """The share of a part in its leaf's fingerprint, `limit` elements at a time.

    Args:
        origin: where in the leaf the part begins, along each axis.
    """
    shape, block = part.shape, _block_shape(part.shape, limit)
    counts = [-(-size // length) for size, length in zip(shape, block, strict=True)]

    def add_block(number: jax.Array, digest: jax.Array) -> jax.Array:
        begin, start = [], []
        for axis, count in enumerate(counts):
            begin.append(number // math.prod(counts[axis + 1 :]) % count * block[axis])
            # The last one of a row of blocks is as long as they are: it overlaps the one before it.
            start.append(jnp.minimum(begin[axis], shape[axis] - block[axis]))
        known = [one - other for one, other in zip(begin, start, strict=True)]
        place = _place([one + other for one, other in zip(origin, start, strict=True)])
        return digest + _digest(jax.lax.dynamic_slice(part, start, block), place, known)

    return jax.lax.fori_loop(0, math.prod(counts), add_block, jnp.uint32(0))


def _block_shape(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """The last axes whole, as many as fit, some rows of the one before them, one row of the others."""
    block: tuple[int, ...] = ()
    for size in reversed(shape):
        block = (min(size, limit // math.prod(block)), *block)
    return block


def _digest(values: jax.Array, first: Any = 0, known: Sequence[Any] = ()) -> jax.Array:
    """The sum of the products of elements and places.

    Args:
        first: place of the first element.
        known: how many rows along each axis count nothing; empty: all count.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    rows = [jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) for axis in range(bits.ndim)]
    products = bits * (2 * (jnp.zeros(bits.shape, jnp.uint32) + first + _place(rows)) + 1)
    for row, count in zip(rows, known, strict=False):
        products = jnp.where(row >= count.astype(jnp.uint32), products, 0)
    return jnp.sum(products, dtype=jnp.uint32)


def _place(indices: Sequence[Any]) -> Any:
    """The number that stands for a place, modulo 2³²."""
    factors = zip(indices, _FACTORS, strict=False)
    return sum(
        (jnp.uint32(factor) * jnp.asarray(index, jnp.uint32) for index, factor in factors), jnp.uint32(0)
    )
