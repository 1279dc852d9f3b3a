"""Fingerprints: those that checkpoints hold already, on any mesh, without a copy of what they are of."""

from __future__ import annotations

import itertools
import re
from functools import partial
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prorank_jax import state_digest
from prorank_jax.config import MeshOptions
from prorank_jax.sharding import make_mesh
from prorank_jax.state_digest import state_digests

needs_eight_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
FEW_BLOCKS = 3 << 20
# 32 MiB each, cut along different axes.
LARGE = ((8, 1024, 1024), (1 << 23,), (2, 1 << 22), (2, 8, 16, 128, 256))
SPECS = (
    PartitionSpec(),
    PartitionSpec("fsdp"),
    PartitionSpec(None, "tensor", "fsdp"),
    PartitionSpec(("data", "fsdp"), None, "tensor"),
)


def some_bits(shape: tuple[int, ...], dtype: str = "uint32") -> np.ndarray:
    count = np.arange(np.prod(shape, dtype=int), dtype=np.uint32)
    return (count * np.uint32(2654435761) + np.uint32(12345)).reshape(shape).view(dtype)


def plain_digest(bits: np.ndarray) -> int:
    place = np.zeros(bits.shape, np.uint32)
    for index, factor in zip(np.indices(bits.shape, np.uint32), state_digest._FACTORS, strict=False):
        place += index * np.uint32(factor)
    return int(np.sum(bits * (2 * place + 1), dtype=np.uint32))


def eight(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(make_mesh(MeshOptions(data=2, fsdp=2, tensor=2), jax.devices()[:8]), spec)


@pytest.mark.parametrize(
    ("shape", "dtype", "digest"),
    [
        ((), "int32", 12345),
        ((7,), "float32", 1505590084),
        ((5, 3), "float32", 4201169296),
        ((2, 3, 4), "float32", 3416691600),
        ((2, 3, 4, 5), "uint32", 3160375600),
        ((2, 3, 4, 5, 2), "int32", 2898768072),
        ((0, 3), "float32", 0),
        ((300_001,), "float32", 3381714825),
        ((3, 517, 701), "float32", 2542508942),
        ((2, 2, 3, 100_003), "float32", 2728836844),
    ],
)
def test_fingerprints_are_those_of_the_checkpoints_there_are(shape, dtype, digest):
    """Another number here would refuse every checkpoint that was written before."""
    values = some_bits(shape, dtype)
    placed = jax.device_put(values, NamedSharding(Mesh(jax.devices()[:1], "x"), PartitionSpec()))
    for leaf in (values, jnp.asarray(values), placed):
        assert state_digests({"w": leaf}) == {"w": digest}


@pytest.mark.parametrize(
    ("shape", "limit"),
    [((50,), 7), ((11, 3), 8), ((3, 11), 8), ((2, 7, 5), 16), ((3, 2, 5, 2), 3), ((2, 3, 2, 3, 4), 1)],
)
def test_blocks_of_any_size_sum_to_the_formula(shape, limit):
    """Of a part that begins further on, too, as another device's does."""
    whole = some_bits(tuple(size + 2 for size in shape))
    part = whole[(slice(2, None),) * len(shape)]
    others = whole.copy()
    others[(slice(2, None),) * len(shape)] = 0
    digest = jax.jit(partial(state_digest._digest_by_blocks, origin=[2] * len(shape), limit=limit))(part)
    assert (int(digest) + plain_digest(others)) % 2**32 == plain_digest(whole)


@pytest.mark.parametrize("shape", LARGE)
def test_a_fingerprint_takes_the_memory_of_a_few_blocks(shape):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    memory = state_digest._digest_alone.lower(leaf).compile().memory_analysis()
    assert memory.argument_size_in_bytes == 32 << 20
    assert memory.temp_size_in_bytes < FEW_BLOCKS


@needs_eight_devices
@pytest.mark.parametrize("spec", SPECS)
def test_each_device_reads_its_own_part_block_by_block(spec):
    where = eight(spec)
    leaf = jax.ShapeDtypeStruct((64, 256, 1024), jnp.float32, sharding=where)
    program = state_digest._digests_on_mesh.lower(leaf, where.mesh, spec).compile()
    assert program.memory_analysis().temp_size_in_bytes < FEW_BLOCKS
    assert not re.search("all-|collective", program.as_text())


@needs_eight_devices
def test_leaves_on_a_mesh_have_the_fingerprints_of_whole_ones(monkeypatch):
    monkeypatch.setattr(state_digest, "_BLOCK_ELEMENTS", 7)
    values = some_bits((8, 8, 24), "float32")
    placed = {str(spec): jax.device_put(values, eight(spec)) for spec in SPECS}
    expected = plain_digest(values.view(np.uint32))
    assert state_digests(placed) == dict.fromkeys(placed, expected)
    text = state_digest._digests.lower({}, {"w": state_digest._digests_of_parts(placed[str(SPECS[-1])])})
    moved = re.findall(r"= (.*?) (?:all-|collective)[\w-]*\(", text.compile().as_text())
    assert moved
    assert all(re.match(r"u32\[8?\]", shape) for shape in moved)  # sums alone travel


def test_the_host_waits_once_for_all_leaves(monkeypatch):
    monkeypatch.setattr(state_digest, "_BLOCK_ELEMENTS", 7)
    get = Mock(side_effect=jax.device_get)
    monkeypatch.setattr(jax, "device_get", get)
    state_digests({"a": jnp.arange(3), "b": {"c": jnp.ones((4, 5)), "d": jnp.ones((4, 5))}})
    get.assert_called_once()


def test_every_flipped_bit_and_moved_value_is_seen():
    values = np.random.default_rng(0).normal(size=(8, 4, 6)).astype(np.float32)
    whole = state_digests({"w": jnp.asarray(values)})
    for place, bit in itertools.product([0, 77, 191], range(32)):
        changed = values.view(np.uint32).copy()
        changed.reshape(-1)[place] ^= np.uint32(1 << bit)
        assert state_digests({"w": jnp.asarray(changed)}) != whole
    moved = np.roll(values, 1, axis=1)
    assert state_digests({"w": jnp.asarray(moved)}) != whole
