"""The devices of a mesh on TPU slices that are not there: the axis that moves most follows the links."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from jax.experimental import mesh_utils, topologies

from prorank_jax.aot.chips import parse_topology
from prorank_jax.config import MeshOptions
from prorank_jax.sharding import MESH_AXES, make_mesh


def hops(one, other) -> int:
    """Links from one chip to another, without those that close a torus."""
    return sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True))


@pytest.mark.parametrize(
    ("slice_", "sizes"),
    [
        ("v5e:4x4", (1, 16, 1)),
        ("v5e:4x4", (1, 4, 4)),
        ("v5e:4x4", (2, 2, 4)),
        ("v5e:16x16", (16, 16, 1)),
        ("v6e:4x4", (1, 16, 1)),
    ],
)
def test_neighbours_on_the_last_axis_are_linked(slice_, sizes):
    devices = topologies.get_topology_desc(**parse_topology(slice_).description).devices
    placed = make_mesh(MeshOptions(*sizes), devices).devices
    assert set(placed.flat) == set(devices)
    last = max(axis for axis in range(len(MESH_AXES)) if sizes[axis] > 1)
    for row in np.moveaxis(placed, last, -1).reshape(-1, sizes[last]):
        assert {hops(*pair) for pair in itertools.pairwise(row)} == {1}
        if max(sizes) == len(devices):  # and the ring is closed
            assert hops(row[-1], row[0]) == 1


@pytest.mark.parametrize(
    ("slice_", "sizes"), [("v5e:2x4", (1, 8, 1)), ("v6e:2x4", (2, 4, 1)), ("v5p:2x2x1", (1, 4, 1))]
)
def test_small_slices_are_laid_as_jax_lays_them(slice_, sizes):
    devices = topologies.get_topology_desc(**parse_topology(slice_).description).devices
    placed = make_mesh(MeshOptions(*sizes), devices).devices
    assert (placed == mesh_utils.create_device_mesh(sizes, devices)).all()
