"""Low-rank adaptation (LoRA: arXiv 2106.09685) over the same tree of parameters.

Beside each `kernel` [in…, out…] stand `lora_a` [in…, r] and `lora_b` [r, out…]; the map is
W + (alpha / r) · A·B (section 4.1 there). B starts at zero, so training starts at the pretrained model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prorank_jax.types import Params

KERNEL, FACTOR_A, FACTOR_B = "kernel", "lora_a", "lora_b"


def split_factors(params: Params) -> tuple[Params, Params]:
    """The low-rank factors of a tree, and the tree without them; neither holds empty branches."""
    factors: Params = {}
    rest: Params = {}
    for name, value in params.items():
        if not isinstance(value, dict):
            (factors if name in (FACTOR_A, FACTOR_B) else rest)[name] = value
            continue
        inner = split_factors(value)
        for tree, branch in zip((factors, rest), inner, strict=True):
            if branch:
                tree[name] = branch
    return factors, rest


def combine(first: Params, second: Params) -> Params:
    """One tree of two that share no leaf."""
    combined = dict(first)
    for name, value in second.items():
        combined[name] = combine(combined[name], value) if name in combined else value
    return combined


def initial_factors(abstract_factors: Params, seed: int) -> Params:
    """A normal with variance 1 / fan-in, B zero: float32, a function of the seed and the shapes.

    Args:
        abstract_factors: the shapes; stacked factors have a leading axis of layers.
    """
    key = jax.random.key(seed)

    def draw(number: int, path: tuple[Any, ...], leaf: Any) -> jax.Array:
        if path[-1].key == FACTOR_B:
            return jnp.zeros(leaf.shape, jnp.float32)
        fan_in = int(np.prod(leaf.shape[1:-1]))
        return jax.random.normal(jax.random.fold_in(key, number), leaf.shape) / np.sqrt(fan_in)

    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract_factors)
    return jax.tree.unflatten(structure, [draw(i, path, leaf) for i, (path, leaf) in enumerate(leaves)])


def add_product(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """W + scale · A·B, in float32."""
    return kernel + scale * _product(a, b).reshape(kernel.shape)


def add_product_in_place(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """The same in the memory of the kernel, which is given up; returns when it is done."""
    add = jax.jit(add_product, static_argnums=3, out_shardings=kernel.sharding, donate_argnums=0)
    return add(kernel, a, b, scale).block_until_ready()


def merge_factors(params: Params, scale: float, add: Callable[..., jax.Array] = add_product) -> Params:
    """The tree without factors that computes the same.

    Args:
        add: with `add_product_in_place` one kernel's product is in memory at a time.
    """
    merged: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            merged[name] = merge_factors(value, scale, add)
        elif name == KERNEL and FACTOR_A in params:
            merged[name] = add(value, params[FACTOR_A], params[FACTOR_B], scale)
        elif name not in (FACTOR_A, FACTOR_B):
            merged[name] = value
    return merged


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[N, in…, r] and [N, r, out…] → [N, in, out]."""
    layers, rank = a.shape[0], a.shape[-1]
    return jnp.einsum(
        "nir,nro->nio",
        a.reshape(layers, -1, rank),
        b.reshape(layers, rank, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
