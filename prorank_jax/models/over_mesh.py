"""What a model asks of the mesh that it is traced for: kernels over its devices, which XLA cannot split."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec


def over_mesh(
    attend: Callable[..., jax.Array], query: tuple[int, ...], kv_heads: int
) -> Callable[..., jax.Array]:
    """The same over the devices of the mesh in context, if there is one.

    Each device attends for its own rows and, where the `heads` axis divides query and KV heads alike, its
    own heads; the logical axis rules say which mesh axes those are.

    Args:
        attend: of arrays [B, T, heads, C] and of others with B first; its result is as its first argument.
        query: shape of the queries.

    Raises:
        ValueError: the mesh's batch axes do not divide B.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend
    axes: Any = nn.logical_to_mesh_axes(("batch", "heads"))
    rows, heads = axes
    if query[0] % _ways(mesh, rows):
        raise ValueError(
            f"rows={query[0]}: must be a multiple of the {_ways(mesh, rows)} devices of mesh axes {rows}"
        )
    if query[2] % _ways(mesh, heads) or kv_heads % _ways(mesh, heads):
        heads = None
    by_head = PartitionSpec(rows, None, heads, None)

    def mapped(*arguments: jax.Array) -> jax.Array:
        specs = tuple(by_head if array.ndim == 4 else PartitionSpec(rows) for array in arguments)
        # A kernel does not say over which axes its results vary, so that cannot be checked.
        return jax.shard_map(attend, in_specs=specs, out_specs=by_head, check_vma=False)(*arguments)

    return mapped


def on_cpu() -> bool:
    """Whether what is traced is for CPUs; false where no mesh is in context."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "cpu"


def on_one_cpu() -> bool:
    """Whether what is traced is for a single CPU device."""
    return on_cpu() and jax.sharding.get_abstract_mesh().size == 1


def _ways(mesh: Any, axes: str | tuple[str, ...] | None) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)
