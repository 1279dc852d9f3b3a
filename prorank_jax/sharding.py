"""The device mesh, and where every array of a run lives on it.

One ordered table maps logical axis names to mesh axes; it holds for parameters and optimizer state
alike, because both carry the same names. Batches are split over `data` and `fsdp` together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prorank_jax.config import MeshOptions
from prorank_jax.types import Batch, ListBatch

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
LOGICAL_RULES: tuple[tuple[str, Any], ...] = (
    ("batch", BATCH_AXES),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("layers", None),
    ("rank", None),
    ("head_dim", None),
    ("norm", None),
    ("length", None),
    ("activation", None),
)


def make_mesh(options: MeshOptions, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `tensor`; an axis of -1 takes the devices that are left.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [options.data, options.fsdp, options.tensor]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        if len(devices) % fixed:
            raise ValueError(
                f"mesh={tuple(sizes)}: {fixed} does not divide the {len(devices)} devices there are"
            )
        sizes[sizes.index(-1)] = len(devices) // fixed
    if int(np.prod(sizes)) != len(devices):
        raise ValueError(
            f"mesh={tuple(sizes)}: the sizes must multiply to the {len(devices)} devices there are"
        )
    return Mesh(np.asarray(devices).reshape(sizes), MESH_AXES)


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises a ValueError when a batch cannot be split evenly over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % ways:
        raise ValueError(f"{name}={batch_size}: must be a multiple of mesh.data * mesh.fsdp = {ways}")


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Drops mesh axes that do not divide their dimension: 2 KV heads on 4 tensor devices stay whole."""
    kept = [
        axis if axis is None or size % mesh.shape[axis] == 0 else None
        for axis, size in zip(spec, shape, strict=False)
    ]
    return PartitionSpec(*kept)


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Shardings of a tree whose leaves may be boxed with logical names; the tree returned is unboxed."""
    specs = nn.logical_to_mesh(nn.get_partition_spec(abstract_state), LOGICAL_RULES)
    shapes = nn.unbox(abstract_state)
    return jax.tree.map(
        lambda leaf, spec: NamedSharding(mesh, _fit(spec, leaf.shape, mesh)),
        shapes,
        specs,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


AnyBatch = TypeVar("AnyBatch", Batch, ListBatch)


def put_batch(batch: AnyBatch, mesh: Mesh) -> AnyBatch:
    """Makes one global batch from the rows each process holds."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
