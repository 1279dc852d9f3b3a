"""What a layer's forward pass keeps for the backward pass; everything else is computed a second time.

No policy keeps the logits or the softmax of plain attention, or a gathered weight: see `plain` and `layers`.

Named values of a layer, so that a policy can say which it keeps. With H·C = D, one value of a token has D
numbers, except the gate and up products with F each; with splash attention `ATTENDED` includes the
logarithm of each softmax's denominator, without which the kernel would have to run again. cuDNN's kernel
gives both at once, so policies keep its results under the name that jax has for it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from prorank_jax.models.products import is_narrow_on_cpu

QUERY, KEY, VALUE = "query", "key", "value"  # rotated, before the keys of a prefix join them
ATTENDED = "attended"  # what attention gives to its output projection
GATE, UP = "gate", "up"

CUDNN_FORWARD = "dot_product_attention_fwd_wrapper"
_policies = jax.checkpoint_policies
_ATTENTION = (QUERY, KEY, VALUE, ATTENDED)


def _is_cudnn_forward(primitive: Any, *_: Any, **__: Any) -> bool:
    return bool(primitive.name == CUDNN_FORWARD)


def _keeping(*names: str) -> Any:
    named = _policies.save_only_these_names(*names)
    return _policies.save_from_both_policies(named, _is_cudnn_forward)


POLICIES: dict[str, Any] = {
    "full": _policies.nothing_saveable,
    "attention": _keeping(*_ATTENTION),
    "gate": _keeping(*_ATTENTION, GATE),
    "mlp": _keeping(*_ATTENTION, GATE, UP),
    "dots_no_batch": _policies.dots_with_no_batch_dims_saveable,
    # A kernel's products are no `dot_general` of the layer, so they are named.
    "dots": _policies.save_from_both_policies(_policies.dots_saveable, _keeping(ATTENDED)),
}


def named_flat(per_head: jax.Array, name: str) -> jax.Array:
    """Names [B, T, heads, C] in the form [B, T, heads·C], and gives it back as it was.

    A TPU fills the last dimension of an array up to 128, so a kept value with heads of 64 would take twice
    its size.
    """
    flat = per_head.reshape(*per_head.shape[:2], -1)
    return named(flat, name).reshape(per_head.shape)


def named(value: jax.Array, name: str) -> jax.Array:
    """Names a value, so that a policy can keep it.

    On a CPU bfloat16 numbers are kept as their bits. XLA's CPU backend has no bfloat16 update of a slice:
    for each layer it would make float32 of what is kept of all layers, put the layer's in, and make bfloat16
    of it again.
    """
    if is_narrow_on_cpu(value):
        return _named_bits(value, name)
    return checkpoint_name(value, name)


def _through_named_bits(value: jax.Array, name: str) -> jax.Array:
    bits = checkpoint_name(jax.lax.bitcast_convert_type(value, jnp.uint16), name)
    return jax.lax.bitcast_convert_type(bits, value.dtype)


_named_bits = jax.custom_jvp(_through_named_bits, nondiff_argnums=(1,))


@_named_bits.defjvp
def _named_bits_jvp(
    name: str, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Not `_named_bits`: policies do not see what is named inside a function with a rule of its own.
    return _through_named_bits(primals[0], name), tangents[0]
