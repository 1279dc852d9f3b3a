"""The parts of a decoder block: RMSNorm, rotary embedding, attention, gated MLP (Flax Linen).

Every parameter is float32 and carries logical axis names; `sharding.py` maps those to the mesh.
Parameters, their gradients as the optimizer gets them, and its state are float32 in either compute dtype;
`gathered` says what crosses the network.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prorank_jax.models.attention import Visibility, attend
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.key_values import KeyValues, for_rows
from prorank_jax.models.lora import FACTOR_A, FACTOR_B
from prorank_jax.models.over_mesh import on_cpu
from prorank_jax.models.products import matrix_product, wide_on_cpu
from prorank_jax.models.remat import GATE, KEY, QUERY, UP, VALUE, named, named_flat
from prorank_jax.models.rotary import rotate
from prorank_jax.stage_options import LoraOptions
from prorank_jax.types import Array


def _kernel(
    fan_in: tuple[int, ...], fan_out: tuple[int, ...], axes: tuple[str, ...]
) -> nn.initializers.Initializer:
    in_axis = tuple(range(len(fan_in)))
    out_axis = tuple(range(len(fan_in), len(fan_in) + len(fan_out)))
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=in_axis, out_axis=out_axis)
    return nn.with_logical_partitioning(init, axes)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(weight: jax.Array, axes: tuple[str, ...], dtype: Any) -> jax.Array:
    """A weight in the compute dtype, whole along `embed`, the axis that `fsdp` splits.

    Each device then multiplies its own rows by whole weights (ZeRO stage 3: arXiv 1910.02054). Left to
    itself the compiler may move activations instead, which are larger. The cast comes first, so that
    bfloat16 is what travels. The gradient goes back the same way: each device's share is a product
    accumulated in float32 and rounded to the compute dtype, in which shares are summed over devices
    (reduce-scatter). From there on it is float32: sums over parts of a batch, norm, clipping, optimizer. The
    compiler may sum the output embedding's shares before it rounds them.

    Args:
        weight: float32, as it is stored.
        axes: its logical names.
        dtype: the compute dtype.
    """
    whole = tuple(None if axis == "embed" else axis for axis in axes)
    return nn.with_logical_constraint(weight.astype(dtype), whole)


def _gathered_forward(weight: jax.Array, axes: tuple[str, ...], dtype: Any) -> tuple[jax.Array, None]:
    return gathered(weight, axes, dtype), None


def _gathered_backward(axes: tuple[str, ...], dtype: Any, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    del dtype
    return (nn.with_logical_constraint(gradient, axes).astype(jnp.float32),)


gathered.defvjp(_gathered_forward, _gathered_backward)


class Projection(nn.Module):
    """A linear map from the last `len(fan_in)` axes to `fan_out`, with an optional bias."""

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    axes: tuple[str, ...]
    use_bias: bool = False
    lora: LoraOptions = LoraOptions()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        kernel: Any = self.param(
            "kernel",
            _kernel(self.fan_in, self.fan_out, self.axes),
            (*self.fan_in, *self.fan_out),
            jnp.float32,
        )
        y = _times(x, kernel, self.axes, len(self.fan_in))
        if self.lora.rank:
            y = y + self.lora.scale * self._low_rank(x)
        if self.use_bias:
            bias_axes = self.axes[len(self.fan_in) :]
            init = nn.with_logical_partitioning(nn.initializers.zeros, bias_axes)
            bias: Any = self.param("bias", init, self.fan_out, jnp.float32)
            y = _plus_bias(y, bias)
        return y

    def _low_rank(self, x: Array) -> jax.Array:
        inner, outer = self.axes[: len(self.fan_in)], self.axes[len(self.fan_in) :]
        rank = self.lora.rank
        a_axes, b_axes = (*inner, "rank"), ("rank", *outer)
        a_init = _kernel(self.fan_in, (rank,), a_axes)
        b_init = nn.with_logical_partitioning(nn.initializers.zeros, b_axes)
        a: Any = self.param(FACTOR_A, a_init, (*self.fan_in, rank), jnp.float32)
        b: Any = self.param(FACTOR_B, b_init, (rank, *self.fan_out), jnp.float32)
        reduced = _times(x, a, a_axes, len(self.fan_in))
        return _times(reduced, b, b_axes, 1)


def _times(x: Array, weight: Array, axes: tuple[str, ...], contracted: int) -> jax.Array:
    """The product of x and a stored weight, which the backward pass gathers a second time.

    What `gathered` gives is new to a scan over layers, which would keep it of each: a copy of all of them,
    whole on every device of `fsdp`. Nothing is multiplied twice: the gradients need no result of the product.
    """

    # A function of its own for each call: jax knows traces by their function, and nothing of logical axes.
    def product(x: jax.Array, weight: jax.Array) -> jax.Array:
        return _contract(x, gathered(weight, axes, x.dtype), contracted)

    result: jax.Array = jax.checkpoint(product, prevent_cse=False)(x, weight)
    return result


def _contract(x: Array, kernel: Array, axes: int) -> jax.Array:
    """The product over the last `axes` axes of x and the first of the kernel, which have one dtype.

    The kernel's gradient is a product over rows and tokens. Over both as two axes, XLA's CPU backend first
    writes the factors anew, transposed, on one thread: a fifth of a training step. So it gets matrices. A
    TPU's compiler gets the axes: matrices cost it 1 to 3% more memory traffic.
    """
    if on_cpu():
        inner = math.prod(kernel.shape[:axes])
        product = matrix_product(jnp.asarray(x).reshape(-1, inner), jnp.asarray(kernel).reshape(inner, -1))
        return product.reshape(*x.shape[: x.ndim - axes], *kernel.shape[axes:])
    contracted = tuple(range(x.ndim - axes, x.ndim))
    return jax.lax.dot_general(x, kernel, ((contracted, tuple(range(axes))), ((), ())))


@jax.custom_vjp
def _plus_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """[..., *fan_out] and a float32 bias [*fan_out] → their sum in the dtype of y.

    The bias' gradient is summed over all tokens in float32, as products sum a kernel's. Left to itself it
    would be summed in the compute dtype, where a bfloat16 sum of 16,000 equal numbers stops half way.
    """
    return y + bias.astype(y.dtype)


def _plus_bias_forward(y: jax.Array, bias: jax.Array) -> tuple[jax.Array, int]:
    return _plus_bias(y, bias), y.ndim - bias.ndim


def _plus_bias_backward(tokens: int, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, gradient.astype(jnp.float32).sum(axis=tuple(range(tokens)))


_plus_bias.defvjp(_plus_bias_forward, _plus_bias_backward)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32 (arXiv 1910.07467).

    The result has the dtype of the argument, or `dtype` if that is given.
    """

    eps: float
    axis_name: str
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, (self.axis_name,))
        scale: Any = self.param("scale", init, (x.shape[-1],), jnp.float32)
        wide = jnp.asarray(x, jnp.float32)
        if on_cpu():
            # Over a single row of tokens [1, T, D] its gradients take XLA's CPU backend 16 times as long.
            wide = wide.reshape(-1, x.shape[-1])
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.eps) * scale
        return normed.reshape(x.shape).astype(self.dtype or x.dtype)


def rows_at(rows: Array, places: Array) -> jax.Array:
    """The entries at some places of each row: [B, T, ...] and [B, R] int32 → [B, R, ...]."""
    whole = jnp.asarray(rows)
    return jnp.take_along_axis(whole, places.reshape(*places.shape, *(1,) * (whole.ndim - 2)), axis=1)


class Attention(nn.Module):
    """Causal grouped-query attention; keys of an optional prefix stand before the row's own.

    Of a prefix that several rows share there is one copy, for as many rows as follow each other.

    With `places` [B, R] only the tokens there ask and get an answer; all give keys and values.
    """

    config: ModelConfig
    lora: LoraOptions = LoraOptions()

    @nn.compact
    def __call__(
        self,
        x: Array,
        angles: tuple[jax.Array, jax.Array],
        visible: Visibility,
        prefix: KeyValues | None,
        places: Array | None = None,
    ) -> tuple[jax.Array, KeyValues]:
        c = self.config
        asking, asking_angles = (x, angles) if places is None else _at_places(x, angles, places)
        heads, kv_heads = (c.heads, c.head_dim), (c.kv_heads, c.head_dim)
        query_axes, key_axes = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        query = Projection((c.dim,), heads, query_axes, c.qkv_bias, self.lora, name="query")(asking)
        key = Projection((c.dim,), kv_heads, key_axes, c.qkv_bias, self.lora, name="key")(x)
        value = Projection((c.dim,), kv_heads, key_axes, c.qkv_bias, self.lora, name="value")(x)
        if c.qk_norm:
            query = RMSNorm(c.norm_eps, "head_dim", name="query_norm")(query)
            key = RMSNorm(c.norm_eps, "head_dim", name="key_norm")(key)
        query = named_flat(rotate(query, *asking_angles), QUERY)
        key = named_flat(rotate(key, *angles), KEY)
        value = named_flat(value, VALUE)
        own = KeyValues(wide_on_cpu(key), wide_on_cpu(value))  # [B, Q, J, C]
        if prefix is not None:
            before = jax.tree.map(lambda one: for_rows(one.astype(key.dtype), len(x)), prefix)
            key = jnp.concatenate([before.keys, key], axis=1)  # [B, S, J, C]
            value = jnp.concatenate([before.values, value], axis=1)
        mixed = attend(query, key, value, visible)  # [B, Q, H, C]
        output_axes = ("heads", "head_dim", "embed")
        output = Projection(heads, (c.dim,), output_axes, lora=self.lora, name="output")(mixed)
        return output, own


def _at_places(
    x: Array, angles: tuple[jax.Array, jax.Array], places: Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    cosine, sine = angles
    return rows_at(x, places), (rows_at(cosine, places), rows_at(sine, places))


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (arXiv 2002.05202)."""

    config: ModelConfig
    lora: LoraOptions = LoraOptions()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        c, lora = self.config, self.lora
        gate = Projection((c.dim,), (c.mlp_dim,), ("embed", "mlp"), lora=lora, name="gate")(x)
        up = Projection((c.dim,), (c.mlp_dim,), ("embed", "mlp"), lora=lora, name="up")(x)
        down = Projection((c.mlp_dim,), (c.dim,), ("mlp", "embed"), lora=lora, name="down")
        gate, up = wide_on_cpu(named(gate, GATE)), wide_on_cpu(named(up, UP))
        return down((nn.silu(gate) * up).astype(x.dtype))
