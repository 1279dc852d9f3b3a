"""The rotary position embedding (arXiv 2104.09864)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from prorank_jax.types import Array


def rotary_angles(positions: Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the rotary embedding: two [B, Q, C/2] float32 (arXiv 2104.09864, eq. 15).

    The powers are made on the host: a TPU approximates them, and a position multiplies the error.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = jnp.asarray(positions, jnp.float32)[..., None] * frequencies.astype(np.float32)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, cosine: Array, sine: Array) -> jax.Array:
    """Rotates [B, Q, heads, C], pairing dimension i with i + C/2 as Llama and Qwen checkpoints do."""
    first, second = jnp.split(jnp.asarray(x, jnp.float32), 2, axis=-1)
    cosine, sine = cosine[:, :, None, :], sine[:, :, None, :]
    rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return rotated.astype(x.dtype)
