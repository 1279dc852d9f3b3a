"""Each row of a batch is fed once for each copy of it, by the processes that hold its devices."""

from __future__ import annotations

from unittest.mock import Mock

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from prorank_jax.config import MeshOptions
from prorank_jax.process_rows import put_whole_batch, rows_of_process
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny import random_batch


def rows_on(devices: set[int], mesh: jax.sharding.Mesh, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What a process would feed that has only these devices."""

    def addressable(sharding: NamedSharding, shape: tuple[int, ...]) -> dict:
        everywhere = sharding.devices_indices_map(shape)
        return {device: index for device, index in everywhere.items() if device.id in devices}

    sharding = prorank_sharding(mesh)
    stand_in = Mock(addressable_devices_indices_map=lambda shape: addressable(sharding, shape))
    monkeypatch.setattr("prorank_jax.process_rows.batch_sharding", lambda _: stand_in)
    return rows_of_process(mesh, 16).tolist()


def prorank_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    from prorank_jax.sharding import batch_sharding

    return batch_sharding(mesh)


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_every_row_is_fed(data, fsdp, tensor, processes, monkeypatch):
    mesh = make_mesh(MeshOptions(data=data, fsdp=fsdp, tensor=tensor))
    each = 8 // processes
    shares = [rows_on(set(range(p * each, (p + 1) * each)), mesh, monkeypatch) for p in range(processes)]
    assert sorted(set(sum(shares, []))) == list(range(16))  # noqa: RUF017 - few and short
    copies = max(1, tensor // each)  # processes that hold the same rows, since a tensor axis spans them
    assert all(len(share) == 16 * copies // processes for share in shares)
    assert all(share == sorted(share) for share in shares)


def test_devices_in_another_order_feed_other_rows(monkeypatch):
    mesh = make_mesh(MeshOptions(), [jax.devices()[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)])
    first, second = (rows_on(set(range(start, start + 4)), mesh, monkeypatch) for start in (0, 4))
    assert first == [0, 1, 4, 5, 8, 9, 12, 13]
    assert sorted(first + second) == list(range(16))


def test_a_whole_batch_arrives_as_it_is():
    batch = random_batch(rows=8)
    placed = put_whole_batch(batch, make_mesh(MeshOptions()))
    for ours, theirs in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)
