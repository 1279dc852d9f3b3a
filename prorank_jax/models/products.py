"""Products of matrices in the forms that a CPU computes fast; other backends take any form as it is.

XLA's CPU backend hands a product to kernels that know a processor's bfloat16 instructions (AMX, AVX512-BF16)
only if its result is float32 and the left factor is contracted over its last axis. Any other bfloat16 product
runs in float32, and is no faster than float32 is. Measured on two cores with AMX, 2048 × 576 × 1536:
690 to 850 GFLOP/s in that form, 150 to 200 in others, 190 to 250 in float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prorank_jax.models.over_mesh import on_cpu


def is_narrow_on_cpu(*values: jax.Array) -> bool:
    """Whether what is traced is for CPUs and all of these are bfloat16."""
    return on_cpu() and all(value.dtype == jnp.bfloat16 for value in values)


def wide_on_cpu(value: jax.Array) -> jax.Array:
    """float32 of what is bfloat16 on a CPU, where each operation on such numbers is two conversions more.

    So is what a scan hands on or collects: see `remat.named`.
    """
    return value.astype(jnp.float32) if is_narrow_on_cpu(value) else value


def matrix_product(left: jax.Array, right: jax.Array) -> jax.Array:
    """[M, K] · [K, N] → [M, N], all of one dtype; sums are float32, and so are those of the gradients."""
    if is_narrow_on_cpu(left, right):
        return _narrow_product(left, right)
    return left @ right


def wide_product(left: jax.Array, right: jax.Array) -> jax.Array:
    """[..., K] · [N, K]ᵀ → [..., N] float32, whatever the dtype of the factors.

    The gradients are products in the factors' dtype on a CPU, and of the float32 cotangent elsewhere.
    """
    if is_narrow_on_cpu(left, right):
        rows = _narrow_product_wide(left.reshape(-1, left.shape[-1]), right)
        return rows.reshape(*left.shape[:-1], right.shape[0])
    return jnp.einsum("...k,nk->...n", left, right, preferred_element_type=jnp.float32)


def product_over_rows(left: jax.Array, right: jax.Array) -> jax.Array:
    """[..., T, M]ᵀ · [..., T, N] → [..., M, N] float32.

    The compiler would make a transpose part of the product again, which then has no fast form on a CPU; what
    enters a branch is written out before. Both branches compute the same, so it does not matter which is
    taken: the first, but for NaN.
    """

    def plain(left: jax.Array, right: jax.Array, turned: jax.Array | None = None) -> jax.Array:
        del turned
        return jnp.einsum("...tm,...tn->...mn", left, right, preferred_element_type=jnp.float32)

    def fast(left: jax.Array, right: jax.Array, turned: jax.Array) -> jax.Array:
        del left
        return jnp.einsum("...mt,...tn->...mn", turned, right, preferred_element_type=jnp.float32)

    if not is_narrow_on_cpu(left, right):
        return plain(left, right)
    first = right.ravel()[0]
    product: jax.Array = jax.lax.cond(first == first, fast, plain, left, right, jnp.swapaxes(left, -1, -2))
    return product


def _dot(left: jax.Array, right: jax.Array, contracted: int) -> jax.Array:
    """Over the last axis of the left factor and the axis `contracted` of the right one: float32."""
    dimensions = (((1,), (contracted,)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _narrow_product(left: jax.Array, right: jax.Array) -> jax.Array:
    return _dot(left, right, 0).astype(left.dtype)


def _narrow_forward(left: jax.Array, right: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _narrow_product(left, right), (left, right)


def _narrow_backward(
    factors: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = factors
    of_left = _dot(gradient, right, 1).astype(left.dtype)
    return of_left, product_over_rows(left, gradient).astype(right.dtype)


_narrow_product.defvjp(_narrow_forward, _narrow_backward)


@jax.custom_vjp
def _narrow_product_wide(left: jax.Array, right: jax.Array) -> jax.Array:
    return _dot(left, right, 1)


def _wide_forward(left: jax.Array, right: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _narrow_product_wide(left, right), (left, right)


def _wide_backward(factors: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, right = factors
    narrow = gradient.astype(left.dtype)
    return _dot(narrow, right, 0).astype(left.dtype), product_over_rows(narrow, left).astype(right.dtype)


_narrow_product_wide.defvjp(_wide_forward, _wide_backward)
