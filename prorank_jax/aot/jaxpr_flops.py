"""FLOPs of the matrix products that a traced step really makes, recomputation included.

Counted in the jaxpr, before the compiler: its own count sees a scanned body once. What is computed twice
because of remat stands twice in the jaxpr of a gradient; what no result needs, and every compiler drops, is
left out. Of a choice the cheapest way that makes any counts, the least that a step can take. Products of a
Pallas kernel count for every step of its grid, those that a mask would skip too, as do those of cuDNN's
attention: two products of all queries and keys forward, five backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

_CUDNN_PRODUCTS = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


def count_flops(jaxpr: core.ClosedJaxpr) -> int:
    """FLOPs over all devices; a multiply and an add count two.

    Raises:
        ValueError: matrix products in a loop whose length is not known before it runs.
    """
    needed, _ = dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    return _of_jaxpr(needed)


def _of_jaxpr(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> int:
    inner = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    return sum(_of_equation(equation) for equation in inner.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name in _CUDNN_PRODUCTS:
        return _CUDNN_PRODUCTS[name] * _of_logits(equation)
    if name == "cond":
        made = [_of_jaxpr(branch) for branch in params["branches"]]
        return min(filter(None, made), default=0)
    inside = sum(_of_jaxpr(jaxpr) for jaxpr in _jaxprs(params))
    if name == "scan":
        return inside * params["length"]
    if name == "while" and inside:
        raise ValueError("a while loop makes matrix products, and its length is not known; use a scan")
    if name == "pallas_call":
        return inside * math.prod(params["grid_mapping"].grid)
    if name == "shard_map":
        return inside * _manual_devices(params)
    return inside


def _of_product(equation: Any) -> int:
    """2 · (elements of the result) · (length of the contraction)."""
    left = equation.invars[0].aval.shape
    contracted = equation.params["dimension_numbers"][0][0]
    result = math.prod(equation.outvars[0].aval.shape)
    return 2 * result * math.prod(left[axis] for axis in contracted)


def _of_logits(equation: Any) -> int:
    """Of the product of queries [B, T, H, C] and keys [B, S, J, C], as cuDNN's attention takes them first."""
    query, key = (variable.aval.shape for variable in equation.invars[:2])
    return 2 * math.prod(query) * key[1]


def _manual_devices(params: dict[str, Any]) -> int:
    """Over how many devices a shard_map's body runs, which is written for one of them."""
    axes = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
    return math.prod(size for name, size in params["mesh"].shape.items() if name in axes)


def _jaxprs(params: dict[str, Any]) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, core.ClosedJaxpr | core.Jaxpr):
                yield item
