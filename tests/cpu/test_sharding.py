"""One run on one device and on eight simulated ones: the same numbers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from prorank_jax.config import GrpoOptions, MeshOptions, OptimizerOptions
from prorank_jax.optimizer import make_optimizer
from prorank_jax.sharding import check_batch_size, make_mesh, put_batch
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import init_state, train_state_shardings
from tests.cpu.tiny import ANSWERS, random_batch, tiny_model

needs_eight_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
OPTIONS = GrpoOptions(group_size=4, kl_coefficient=0.1)


class Outcome(NamedTuple):
    metrics: dict[str, float]
    completions: np.ndarray
    gradients: dict
    scores: np.ndarray


def keep_gradients() -> optax.GradientTransformation:
    """An optimizer that stands still and remembers the gradients it got."""

    def zeros(params: dict) -> dict:
        return jax.tree.map(jnp.zeros_like, params)

    return optax.GradientTransformation(zeros, lambda gradients, _, params: (zeros(params), gradients))


def reward(tokens, labels):
    return (tokens.sum(-1) % 5 + labels[:, None]).astype(jnp.float32)


def outcome_on(mesh: Mesh) -> Outcome:
    """One step and the scores of a model of which `tensor: 4` divides the heads, not the KV heads."""
    model, params = tiny_model()
    optimizer = keep_gradients()
    shardings = train_state_shardings(model, optimizer, mesh)
    step = make_grpo_step(model, optimizer, optax.constant_schedule(1.0), OPTIONS, ANSWERS, reward, mesh)
    with jax.set_mesh(mesh):
        batch = put_batch(random_batch(8), mesh)
        reference = jax.device_put(tiny_model(seed=1)[1], shardings.params)
        state = init_state(jax.device_put(params, shardings.params), model, optimizer, shardings)
        scores = make_score_step(model, ANSWERS, mesh)(state.params, batch)
        state, metrics, completions = step(state, reference, batch, jax.random.key(5))
    return Outcome(
        {name: float(value) for name, value in metrics.items()},
        *jax.device_get((completions, state.opt_state, scores)),
    )


@pytest.fixture(scope="module")
def alone() -> Outcome:
    return outcome_on(make_mesh(MeshOptions(), jax.devices()[:1]))


@needs_eight_devices
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4)])
def test_a_sharded_step_gives_the_numbers_of_one_device(sizes, alone):
    sharded = outcome_on(make_mesh(MeshOptions(*sizes), jax.devices()[:8]))
    np.testing.assert_array_equal(sharded.completions, alone.completions)
    assert sharded.metrics == pytest.approx(alone.metrics, rel=1e-5, abs=1e-6)
    assert alone.metrics["grad_norm"] > 0.01
    np.testing.assert_allclose(sharded.scores, alone.scores, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(sharded.gradients), jax.tree.leaves(alone.gradients), strict=True
    ):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


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


@needs_eight_devices
def test_kv_heads_that_tensor_does_not_divide_stay_whole():
    mesh = make_mesh(MeshOptions(1, 2, 4), jax.devices()[:8])
    model, _ = tiny_model()
    attention = train_state_shardings(model, keep_gradients(), mesh).params["layers"]["attention"]
    assert "tensor" in attention["query"]["kernel"].spec
    assert "tensor" not in attention["key"]["kernel"].spec


@needs_eight_devices
def test_one_axis_takes_the_devices_that_are_left():
    devices = jax.devices()[:8]
    assert dict(make_mesh(MeshOptions(), devices).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshOptions(2, -1, 2), devices).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


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
