"""The hand count of FLOPs against a walk of the jaxpr and against what XLA counts without loops."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import prorank_jax.models.transformer
from prorank_jax.aot.estimate import recomputed_share
from prorank_jax.aot.jaxpr_flops import count_flops
from prorank_jax.aot.programs import SHARED_TOKENS, StepProgram, build_program
from prorank_jax.config import RunConfig
from prorank_jax.config_files import config_from_flat
from prorank_jax.flops import grpo_step_flops
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny import tiny_config

SHAPE = dataclasses.replace(
    tiny_config(), dim=32, heads=4, kv_heads=2, head_dim=8, mlp_dim=80, layers=3, max_positions=256
)
FIELDS: dict[str, Any] = {
    "data.max_length": 96,
    "train.batch_size": 4,
    "train.steps": 20,
    "grpo.group_size": 3,
    "ranking.list_size": 3,
    "mesh.data": 1,
}


def config_with(**changes: Any) -> RunConfig:
    return config_from_flat(FIELDS | changes)


def program(which: str, **changes: Any) -> StepProgram:
    config = config_with(stage=2 if which == "2" else 1, **changes)
    return build_program(config, which, SHAPE, make_mesh(config.mesh, jax.devices()[:1]))


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch):
    """The last layer is trained for the tokens that are read only, which a CPU does not do."""
    monkeypatch.setattr(prorank_jax.models.transformer, "on_cpu", lambda: False)


def executed(built: StepProgram) -> int:
    return count_flops(built.step.trace(*built.arguments).jaxpr)


def softmax_again(which: str, config: RunConfig) -> int:
    """What the backward pass multiplies a second time to have attention's softmax: queries and keys."""

    def products(queries: int, keys: int, read: int) -> int:
        """Of the last layer, those of the tokens that are read."""
        return 2 * SHAPE.heads * SHAPE.head_dim * keys * ((SHAPE.layers - 1) * queries + read)

    rows, width = config.train.batch_size, config.data.max_length
    if which == "1":
        later = config.grpo.group_size * (config.grpo.max_new_tokens - 1)
        each = products(width, width, 1) + products(later, width + later, later)
        return config.grpo.updates_per_rollout * rows * each
    documents = config.ranking.list_size + config.ranking.in_batch_negatives
    rest = products(width - SHARED_TOKENS, width, 2 if config.ranking.format_coefficient > 0 else 1)
    return rows * (products(SHARED_TOKENS, SHARED_TOKENS, 0) + documents * rest) if which == "2" else 0


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("1", {}),
        ("1", {"grpo.max_new_tokens": 1}),
        ("1", {"grpo.kl_coefficient": 0.1}),
        ("1", {"grpo.updates_per_rollout": 3}),
        ("2", {}),
        ("2", {"train.accumulation": 2}),
        ("2", {"ranking.in_batch_negatives": 2, "ranking.losses": "info_nce=1"}),
        ("score", {}),
    ],
)
def test_the_hand_count_is_what_the_step_multiplies(which, changes):
    built = program(which, **changes)
    counted = built.model_flops + softmax_again(which, config_with(**changes))
    # What only the walk sees: a few scores against w1 - w0, in stage 1 nothing at all.
    assert executed(built) == pytest.approx(counted, rel=1e-9 if which == "1" else 2e-4)


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("1", {"grpo.kl_coefficient": 0.1}),
        ("1", {"grpo.updates_per_rollout": 2}),
        ("2", {}),
        ("2", {"ranking.losses": "preference=1"}),
    ],
)
def test_the_hand_count_beside_low_rank_factors(which, changes):
    """What the factors multiply is linear in their rank; the hand count leaves it out."""
    one, two = (program(which, **changes | {"lora.rank": rank}) for rank in (1, 2))
    assert one.model_flops == two.model_flops < program(which, **changes).model_flops
    counted = one.model_flops + softmax_again(which, config_with(**changes))
    assert 2 * executed(one) - executed(two) == pytest.approx(counted, rel=1e-9 if which == "1" else 2e-4)


@pytest.mark.parametrize("remat", ["full", "attention", "gate", "mlp", "dots_no_batch"])
def test_recomputation_is_counted_and_the_rough_model_knows_its_share(remat):
    config = config_with(**{"model.remat": remat, "grpo.max_new_tokens": 1})
    built = program("1", **{"model.remat": remat, "grpo.max_new_tokens": 1})
    extra = executed(built) / built.model_flops - 1
    assert extra == pytest.approx(recomputed_share(config, SHAPE, 96, 96) / 3, rel=0.05)
    # At most the whole forward pass, and in its backward pass attention's softmax.
    assert 0 < extra < 1 / 3 + softmax_again("1", config) / built.model_flops


def test_the_count_grows_by_a_layer_as_xla_says_of_unrolled_steps(monkeypatch):
    """cost_analysis sees a scanned body once, so the scan is unrolled here; it also counts additions."""
    shape = dataclasses.replace(SHAPE, dim=128, heads=4, kv_heads=2, head_dim=32, mlp_dim=384)
    config = config_with(**{"grpo.max_new_tokens": 1, "train.batch_size": 2})
    scan = jax.lax.scan
    monkeypatch.setattr(jax.lax, "scan", lambda *args, **kw: scan(*args, **(kw | {"unroll": True})))

    def counted(layers: int) -> tuple[float, int]:
        deep = dataclasses.replace(shape, layers=layers)
        built = build_program(config, "1", deep, make_mesh(config.mesh, jax.devices()[:1]))
        compiled = built.step.lower(*built.arguments).compile()
        return compiled.cost_analysis()["flops"], grpo_step_flops(deep, config.grpo, 2, 96)

    (one, ours_one), (two, ours_two) = counted(1), counted(2)
    assert two - one == pytest.approx(ours_two - ours_one, rel=0.08)


def test_loops_branches_kernels_and_shards():
    x = jnp.ones((4, 6))
    square = jnp.ones((6, 6))
    product = 2 * 4 * 6 * 6

    def walk(function, *args) -> int:
        return count_flops(jax.make_jaxpr(function)(*args))

    assert walk(lambda x: jax.lax.scan(lambda c, _: (c @ square, None), x, length=7)[0], x) == 7 * product
    assert walk(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ square, lambda x: x, x), x) == product
    cheap_or_not = (lambda x: x @ square @ square, lambda x: x @ square)
    assert walk(lambda x: jax.lax.cond(x[0, 0] > 0, *cheap_or_not, x), x) == product
    assert walk(lambda x: jax.jit(jax.checkpoint(lambda x: x @ square))(x), x) == product
    with pytest.raises(ValueError, match="while loop"):
        walk(lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ square, x), x)

    def kernel(left, right, out):
        out[...] = left[...] @ right[...]

    blocked = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((4, 6), jnp.float32),
        grid=(2,),
        in_specs=[pl.BlockSpec((2, 6), lambda i: (i, 0)), pl.BlockSpec((6, 6), lambda _: (0, 0))],
        out_specs=pl.BlockSpec((2, 6), lambda i: (i, 0)),
    )
    assert walk(blocked, x, square) == product
    mesh = Mesh(np.array(jax.devices()[:4]), ("rows",))
    split = jax.shard_map(lambda x: x @ square, mesh=mesh, in_specs=P("rows"), out_specs=P("rows"))
    assert walk(split, x) == product


def test_products_that_no_result_needs_are_not_counted():
    def twice(x):
        unused = [x @ x for _ in range(3)]
        return jax.jit(lambda y: (y @ y, y @ y + 1))(x)[0], len(unused)

    square = jnp.ones((8, 8))
    assert count_flops(jax.jit(twice).trace(square).jaxpr) == 2 * 8**3


def test_cudnns_attention_counts_its_products_of_all_queries_and_keys(monkeypatch):
    """Two forward; five backward: the logits again, and gradients of softmax, values, queries and keys."""
    name = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(name, lambda: 91_000)
    query = jax.ShapeDtypeStruct((2, 64, 4, 16), jnp.bfloat16)
    key = jax.ShapeDtypeStruct((2, 96, 2, 16), jnp.bfloat16)

    def attend(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn").sum()

    one = 2 * 2 * 4 * 64 * 96 * 16
    assert count_flops(jax.make_jaxpr(attend)(query, key, key)) == 2 * one
    gradient = jax.make_jaxpr(jax.grad(attend, argnums=(0, 1, 2)))
    assert count_flops(gradient(query, key, key)) == 7 * one
