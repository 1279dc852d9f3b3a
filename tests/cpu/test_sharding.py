"""Where arrays lie: one table for parameters and optimizer, and which meshes fit which model."""

from __future__ import annotations

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from prorank_jax.aot.model_shapes import PUBLISHED_SHAPES
from prorank_jax.config import LoraOptions, MeshOptions, OptimizerOptions
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.lora import split_factors
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.optimizer import make_optimizer
from prorank_jax.sharding import (
    MESH_AXES,
    _in_order_of_links,
    check_batch_size,
    logical_axes,
    logical_rules,
    make_mesh,
    put_batch,
    state_shardings,
)
from prorank_jax.train_state import init_state, train_state_shardings
from tests.cpu.tiny import random_batch, tiny_config, tiny_model

needs_eight_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
QWEN_2_5_500M = PUBLISHED_SHAPES["Qwen/Qwen2.5-0.5B-Instruct"]


def abstract_mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    """A mesh of devices that are not there: enough to decide where arrays would lie."""
    return AbstractMesh((data, fsdp, tensor), MESH_AXES)


def specs(config: ModelConfig, mesh: AbstractMesh, lora: LoraOptions | None = None) -> dict:
    tree = abstract_params(Transformer(config, lora=lora or LoraOptions()))
    return jax.tree.map(lambda sharding: sharding.spec, state_shardings(tree, mesh))


@needs_eight_devices
def test_optimizer_state_lies_where_its_parameters_lie():
    mesh = make_mesh(MeshOptions(2, 2, 2), jax.devices()[:8])
    model, params = tiny_model()
    optimizer = make_optimizer(OptimizerOptions(), 100)
    shardings = train_state_shardings(model, optimizer, mesh)
    state = init_state(jax.device_put(params, shardings.params), model, optimizer, shardings)
    where = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    (adam,) = (
        part
        for part in jax.tree.leaves(state.opt_state, is_leaf=lambda node: hasattr(node, "mu"))
        if hasattr(part, "mu")
    )
    assert jax.tree.map(lambda leaf: leaf.sharding, adam.mu) == where
    assert jax.tree.map(lambda leaf: leaf.sharding, adam.nu) == where
    embedding, output = state.params["embedding"], state.params["layers"]["mlp"]["down"]["kernel"]
    for array in (embedding, output):  # split by fsdp and tensor, a copy for each of `data`
        assert array.addressable_shards[0].data.size == array.size // 4


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tensor", "split"),
    [
        (14, 2, 2, {"query", "key"}),
        (14, 2, 4, set()),
        (14, 2, 8, set()),
        (16, 2, 4, {"query"}),  # two devices repeat one KV head
        (12, 3, 2, set()),  # a device would hold query heads of one KV head and of the next
        (16, 8, 8, {"query", "key"}),
    ],
)
def test_heads_are_split_so_that_each_lies_beside_its_kv_head_or_not_at_all(heads, kv_heads, tensor, split):
    config = dataclasses.replace(QWEN_2_5_500M, heads=heads, kv_heads=kv_heads)
    mesh = abstract_mesh(1, 8, tensor)
    layers = specs(config, mesh, LoraOptions(rank=4))["layers"]
    for part in ("query", "key"):
        for leaf in ("kernel", "bias", "lora_b"):
            assert ("tensor" in layers["attention"][part][leaf]) == (part in split), (part, leaf)
        assert "fsdp" in layers["attention"][part]["kernel"]
    for leaf in ("kernel", "lora_a"):
        assert ("tensor" in layers["attention"]["output"][leaf]) == ("query" in split)
    assert "tensor" in layers["mlp"]["gate"]["kernel"]  # the rest stays split
    assert layers["attention"]["key"]["bias"] == layers["attention"]["value"]["bias"]


def test_rules_and_specs_agree():
    """Activations are constrained by the rules, arrays placed by the specs: they must drop the same axes."""
    tree = abstract_params(Transformer(QWEN_2_5_500M))
    for tensor, expected in ((2, "tensor"), (8, None)):
        rules = dict(logical_rules(tree, abstract_mesh(1, 2, tensor)))
        assert rules["heads"] == rules["kv_heads"] == expected
        assert rules["mlp"] == "tensor"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1, 256, 1), r"mesh\.fsdp=256: does not divide the model's dim 896; choose one of 1, 2, 4, 7, "),
        ((1, 256, 2), r"mesh\.fsdp=256: .*the rest of the devices to mesh\.data or mesh\.tensor"),
        ((1, 1, 19), r"mesh\.tensor=19: does not divide the model's vocab_size 151936; .* 1, 2, 4, 8, 16,"),
        ((2, 8, 256), r"mesh\.tensor=256: .*vocab_size 151936; .*64, 128, .*to mesh\.data or mesh\.fsdp"),
        ((1, 1, 1187), r"mesh\.tensor=1187: does not divide the model's mlp_dim 4864; .*64, 128, "),
    ],
)
def test_a_mesh_that_does_not_fit_the_model_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        specs(QWEN_2_5_500M, abstract_mesh(*sizes))


def test_low_rank_factors_alone_are_refused_too():
    factors, _ = split_factors(abstract_params(Transformer(QWEN_2_5_500M, lora=LoraOptions(rank=4))))
    with pytest.raises(ValueError, match=r"mesh\.fsdp=3: does not divide the model's dim 896"):
        state_shardings(factors, abstract_mesh(1, 3, 1))


@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    dims=st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 24)),
    heads=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_every_mesh_either_splits_evenly_or_is_refused_with_sizes_that_would_do(sizes, dims, heads):
    dim, mlp_dim, vocab_size = dims
    tree = boxed_tree(
        dataclasses.replace(
            tiny_config(),
            dim=dim,
            mlp_dim=mlp_dim,
            vocab_size=vocab_size,
            heads=heads[0] * heads[1],
            kv_heads=heads[1],
            layers=1,
        )
    )
    mesh = abstract_mesh(*sizes)
    try:
        shardings = state_shardings(tree, mesh)
    except ValueError as error:
        axis, refused, fitting = re.match(
            r"mesh\.(\w+)=(\d+): .* choose one of ([\d, ]+), and give", str(error)
        ).groups()
        assert mesh.shape[axis] == int(refused)
        other = {**mesh.shape, "fsdp": 1, "tensor": 1}
        for size in map(int, fitting.split(", ")):
            state_shardings(tree, abstract_mesh(*{**other, axis: size}.values()))
        with pytest.raises(ValueError, match=rf"mesh\.{axis}={refused}"):
            state_shardings(tree, abstract_mesh(*{**other, axis: int(refused)}.values()))
    else:
        shapes = jax.tree.map(lambda box: box.value, tree, is_leaf=is_box)
        jax.tree.map(lambda leaf, sharding: sharding.shard_shape(leaf.shape), shapes, shardings)


def is_box(node: object) -> bool:
    return isinstance(node, nn.LogicallyPartitioned)


def boxed_tree(config: ModelConfig) -> dict:
    """One array of each kind there is, without the cost of tracing a model."""
    c = config
    shapes = {
        "embedding": ((c.vocab_size, c.dim), ("vocab", "embed")),
        "query": ((1, c.dim, c.heads, c.head_dim), ("layers", "embed", "heads", "head_dim")),
        "key": ((1, c.dim, c.kv_heads, c.head_dim), ("layers", "embed", "kv_heads", "head_dim")),
        "gate": ((1, c.dim, c.mlp_dim), ("layers", "embed", "mlp")),
    }
    return {
        name: nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)
        for name, (shape, names) in shapes.items()
    }


@needs_eight_devices
def test_constraints_work_without_a_mesh_in_context():
    """Flax drops them silently where no mesh is set, as in a server that never heard of one."""
    mesh = make_mesh(MeshOptions(2, 4, 1), jax.devices()[:8])
    rules = logical_rules(abstract_params(tiny_model()[0]), mesh)

    @jax.jit
    def constrained(rows):
        with logical_axes(rules, mesh):
            return nn.with_logical_constraint(rows * 2, ("batch",))

    placed = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, jax.P()))
    assert [shard.data.shape for shard in constrained(placed).addressable_shards] == [(1,)] * 8


@needs_eight_devices
def test_one_axis_takes_the_devices_that_are_left():
    devices = jax.devices()[:8]
    assert dict(make_mesh(MeshOptions(), devices).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshOptions(2, -1, 2), devices).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@dataclasses.dataclass(frozen=True)
class Chip:
    """What jax tells of a TPU chip."""

    coords: tuple[int, int, int]
    slice_index: int = 0
    core_on_chip: int = 0
    device_kind: str = "TPU v5 lite"
    platform: str = "tpu"


def test_chips_of_a_slice_are_laid_along_its_links_and_those_of_two_stay_as_they_are():
    """tests/tpu does so with the slices that libtpu knows."""
    hosts = [Chip((x + 2 * host, y, 0)) for host in range(2) for y in range(2) for x in range(2)]
    ring = [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (2, 1), (1, 1), (0, 1)]
    assert [chip.coords[:2] for chip in _in_order_of_links(hosts, (1, 8, 1)).flat] == ring
    slices = [*hosts, *(dataclasses.replace(chip, slice_index=1) for chip in hosts)]
    assert list(_in_order_of_links(slices, (2, 8, 1)).flat) == slices
    assert _in_order_of_links(hosts[3:4], (1, 1, 1)).tolist() == [[[hosts[3]]]]


@needs_eight_devices
@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (8, 2, 1), (2, 2, 1), (-1, 16, 1)])
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes):
    with pytest.raises(ValueError, match=r"mesh=\(.*8 devices"):
        make_mesh(MeshOptions(*sizes), jax.devices()[:8])


@needs_eight_devices
def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(MeshOptions(2, 2, 2), jax.devices()[:8])
    check_batch_size("train.batch_size", 12, mesh)
    with pytest.raises(ValueError, match=r"train\.batch_size=6: must be a multiple of .* = 4"):
        check_batch_size("train.batch_size", 6, mesh)
    tokens = put_batch(random_batch(8), mesh).tokens
    assert {shard.data.shape[0] for shard in tokens.addressable_shards} == {2}
