"""Which rows of a batch a process feeds, and batches that every process has whole."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh

from prorank_jax.sharding import AnyBatch, batch_sharding


def rows_of_process(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that lie on this process's devices: int64, ascending.

    Where a tensor axis spans processes, several of them feed the same rows.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    parts = [np.arange(batch_size)[index] for index in places.values() if index is not None]
    return np.unique(np.concatenate(parts))


def put_whole_batch(batch: AnyBatch, mesh: Mesh) -> AnyBatch:
    """Makes a global batch that every process holds whole: each gives its own devices their rows."""
    sharding = batch_sharding(mesh)

    def place(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

    return jax.tree.map(place, batch)
