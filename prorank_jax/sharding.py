"""The device mesh, and where every array of a run lives on it.

One ordered table maps logical axis names to mesh axes; it holds for parameters and optimizer state
alike, because both carry the same names. Batches are split over `data` and `fsdp` together. A dimension
that its mesh axis does not divide is an error, except that of heads, of which models have few.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prorank_jax.config import MeshOptions
from prorank_jax.types import Batch, ListBatch, PackedBatch

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
Rules = tuple[tuple[str, Any], ...]
LOGICAL_RULES: Rules = (
    ("batch", BATCH_AXES),
    ("lookup", "data"),
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
# What a model's config calls the dimensions that must divide.
_DIMENSIONS = {"embed": "dim", "mlp": "mlp_dim", "vocab": "vocab_size"}


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
    return Mesh(_in_order_of_links(devices, sizes), MESH_AXES)


def _in_order_of_links(devices: Sequence[jax.Device], sizes: Sequence[int]) -> np.ndarray:
    """The devices of a TPU slice in jax's order for collectives along the axes, above all the last one.

    `jax.devices()` lists them by process. From 4x4 chips of v5e or v6e on, those neighbours are linked.
    """
    is_slice = devices[0].platform == "tpu" and len({getattr(one, "slice_index", 0) for one in devices}) == 1
    if is_slice and len(devices) > 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(sizes)


def batch_ways(mesh: Mesh) -> int:
    """The number of parts that the rows of a batch are split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises a ValueError when a batch cannot be split evenly over the mesh."""
    ways = batch_ways(mesh)
    if batch_size % ways:
        raise ValueError(f"{name}={batch_size}: must be a multiple of mesh.data * mesh.fsdp = {ways}")


def _axis_sizes(abstract_tree: Any) -> dict[str, int]:
    """The size of each logical axis; an axis has the same size wherever it occurs."""
    boxes = jax.tree.leaves(abstract_tree, is_leaf=lambda node: isinstance(node, nn.LogicallyPartitioned))
    return {
        name: size
        for box in boxes
        if isinstance(box, nn.LogicallyPartitioned)
        for name, size in zip(box.names, box.value.shape, strict=True)
        if name is not None
    }


def _whole_heads(sizes: dict[str, int], tensor: int) -> set[str]:
    """The head axes that cannot be split so that each query head lies beside its KV head."""
    kv_heads = sizes.get("kv_heads", 1)
    heads = sizes.get("heads", kv_heads)
    if kv_heads % tensor == 0:
        return set()
    # More devices than KV heads: each device repeats the one that all of its query heads share.
    if heads % tensor == 0 and tensor % kv_heads == 0:
        return {"kv_heads"}
    return {"heads", "kv_heads"}


def _refuse_unfit_axes(sizes: dict[str, int], mesh: Mesh) -> None:
    table = dict(LOGICAL_RULES)
    for name, label in _DIMENSIONS.items():
        axis, size = table[name], sizes.get(name, 0)
        ways = mesh.shape[axis]
        if size % ways == 0:
            continue
        common = math.gcd(*(sizes[other] for other in _DIMENSIONS if table[other] == axis and other in sizes))
        fitting = ", ".join(str(n) for n in range(1, ways) if common % n == 0)
        others = " or ".join(f"mesh.{other}" for other in MESH_AXES if other != axis)
        raise ValueError(
            f"mesh.{axis}={ways}: does not divide the model's {label} {size}; choose one of {fitting}, and "
            f"give the rest of the devices to {others}"
        )


def logical_rules(abstract_tree: Any, mesh: Mesh) -> Rules:
    """`LOGICAL_RULES` for one model on one mesh: heads are whole where `tensor` cannot split them.

    Grouped attention pairs query heads with KV heads, so both are decided together: 14 query and 2 KV
    heads are split over 2 devices, and whole on each of 4 or 8.

    Args:
        abstract_tree: parameters or any tree made from them, boxed with their logical names.

    Raises:
        ValueError: a mesh axis does not divide another dimension that it splits.
    """
    sizes = _axis_sizes(abstract_tree)
    _refuse_unfit_axes(sizes, mesh)
    whole = _whole_heads(sizes, mesh.shape["tensor"])
    return tuple((name, None if name in whole else axes) for name, axes in LOGICAL_RULES)


@contextlib.contextmanager
def logical_axes(rules: Rules, mesh: Mesh) -> Iterator[None]:
    """Inside, while a step is traced, `nn.with_logical_constraint` means axes of this mesh.

    Without a mesh in context Flax drops constraints silently; a step must not depend on its caller's.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(rules):
        yield


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Shardings of a tree whose leaves may be boxed with logical names; the tree returned is unboxed.

    Raises:
        ValueError: a mesh axis does not divide a dimension; see `logical_rules`.
    """
    rules = logical_rules(abstract_state, mesh)
    specs = nn.logical_to_mesh(nn.get_partition_spec(abstract_state), rules)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


AnyBatch = TypeVar("AnyBatch", Batch, ListBatch, PackedBatch)


def put_batch(batch: AnyBatch, mesh: Mesh) -> AnyBatch:
    """Makes one global batch from the rows each process holds."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
