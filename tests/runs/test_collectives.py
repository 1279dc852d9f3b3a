"""What crosses the network where `fsdp` splits the weights: weights and their gradients, not activations."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from prorank_jax.config import GrpoOptions, MeshOptions
from prorank_jax.models.transformer import abstract_params
from prorank_jax.sharding import batch_sharding, make_mesh, replicated, state_shardings
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import train_state_shardings
from prorank_jax.types import Batch, TrainState
from tests.cpu.mesh_runs import graded_reward
from tests.cpu.tiny import ANSWERS, tiny_model

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
ROWS, WIDTH = 16, 11  # no weight has an axis of 11
MOVES = re.compile(r" = \(?(f32\[[\d,]*\]).* (all-gather|all-reduce|reduce-scatter|collective-permute)\(")


def placed(tree, shardings):
    return jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), tree, shardings
    )


def abstract_batch(mesh) -> Batch:
    rows = batch_sharding(mesh)
    ids = jax.ShapeDtypeStruct((ROWS,), jnp.int32, sharding=rows)
    tokens = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.int32, sharding=rows)
    return Batch(tokens=tokens, lengths=ids, labels=ids, examples=ids)


def moved(compiled) -> set[tuple[str, tuple[int, ...]]]:
    """Each float32 collective but all-to-all, with the sizes of its largest result that are not 1."""
    found = set()
    for shape, kind in MOVES.findall(compiled.as_text()):
        sizes = tuple(int(size) for size in re.findall(r"\d+", shape[3:]) if size != "1")
        found.add((kind, sizes))
    return found


def test_scoring_gathers_each_weight_and_moves_no_activation():
    mesh = make_mesh(MeshOptions(1, 8, 1), jax.devices()[:8])
    model, _ = tiny_model()
    boxed = abstract_params(model)
    params = placed(nn.unbox(boxed), state_shardings(boxed, mesh))
    moves = moved(make_score_step(model, ANSWERS, mesh).lower(params, abstract_batch(mesh)).compile())
    kernels = {(16, 4, 4), (16, 2, 4), (4, 4, 16), (16, 24), (24, 16)}
    assert kernels <= {sizes for kind, sizes in moves if kind == "all-gather"}
    assert not [sizes for _, sizes in moves if WIDTH in sizes]
    assert (24, 16) not in {sizes for kind, sizes in moves if kind == "all-reduce"}


def test_training_moves_no_activation_either():
    mesh = make_mesh(MeshOptions(1, 8, 1), jax.devices()[:8])
    model, _ = tiny_model()
    optimizer = optax.sgd(1.0)
    shardings = train_state_shardings(model, optimizer, mesh)
    params = nn.unbox(abstract_params(model))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = TrainState(step=step, params=params, opt_state=jax.eval_shape(optimizer.init, params))
    key = jax.eval_shape(lambda: jax.random.key(0))
    grpo = make_grpo_step(
        model,
        optimizer,
        optax.constant_schedule(1.0),
        GrpoOptions(group_size=4),
        ANSWERS,
        graded_reward,
        mesh,
    )
    compiled = grpo.lower(
        placed(shapes, shardings),
        None,
        abstract_batch(mesh),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh)),
    ).compile()
    assert not [sizes for _, sizes in moved(compiled) if WIDTH in sizes]
