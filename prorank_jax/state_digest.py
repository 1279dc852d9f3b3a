"""Fingerprints of arrays, by which a checkpoint read back is known to be what was saved."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)


def state_digests(tree: Any) -> dict[str, int]:
    """A 32-bit fingerprint of each leaf, by its path; the same however the leaf lies on its devices.

    The sum of the elements' bits, each times an odd number that depends on its place, modulo 2³². One
    flipped bit always changes it.

    Args:
        tree: of 32-bit arrays with at most five axes, on devices.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    digests = jax.device_get(_digests([leaf for _, leaf in leaves]))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {name: int(digest) for name, digest in zip(names, digests, strict=True)}


@jax.jit
def _digests(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_digest(leaf) for leaf in leaves]


def _digest(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, factor in zip(range(bits.ndim), _FACTORS, strict=False):
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(factor)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
