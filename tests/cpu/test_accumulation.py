"""Parts of a batch: which rows they have, where those lie, and that they are put together again."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.accumulation import join_parts, map_parts, split_into_parts, sum_parts
from prorank_jax.config import MeshOptions
from prorank_jax.sharding import batch_sharding, make_mesh
from tests.cpu.tiny import random_batch

needs_eight_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")


@given(st.integers(1, 4), st.integers(1, 5))
def test_parts_are_joined_to_the_batch_they_came_from(count, rows):
    batch = random_batch(count * rows)
    parts = split_into_parts(batch, count)
    assert parts.tokens.shape == (count, rows, 10)
    np.testing.assert_array_equal(parts.examples[0], np.arange(rows) * count)
    jax.tree.map(np.testing.assert_array_equal, join_parts(parts), batch)


@needs_eight_devices
def test_each_part_has_rows_of_each_device_and_no_row_moves():
    mesh = make_mesh(MeshOptions(), jax.devices()[:8])
    rows = jax.device_put(jnp.arange(32), batch_sharding(mesh))
    split = jax.jit(lambda rows: split_into_parts(rows, 2))
    parts = split(rows)
    assert [shard.data.shape for shard in parts.addressable_shards] == [(2, 2)] * 8
    assert not re.search("all-|collective", split.lower(rows).compile().as_text())


@pytest.mark.parametrize("count", [1, 3])
def test_rows_and_sums_of_parts_are_those_of_the_batch(count):
    rows = jnp.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(map_parts(lambda part: part * 2, rows, count), rows * 2)
    sums = sum_parts(lambda part: {"sum": part.sum(axis=0), "rows": jnp.int32(len(part))}, rows, count)
    np.testing.assert_array_equal(sums["sum"], rows.sum(axis=0))
    assert (int(sums["rows"]), sums["rows"].dtype) == (6, jnp.int32)
