"""A checkpoint gives back every bit, and a save that was killed is as if it had never begun."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prorank_jax.checkpoint import Checkpoints
from prorank_jax.config import MeshOptions
from prorank_jax.run_folder import CHECKPOINTS_FOLDER
from prorank_jax.sharding import make_mesh
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import TrainState
from tests.cpu.tiny import tiny_model

ITERATOR = {"next_index": 12, "nested": {"seed": 2**31 + 5}}


def some_state(step: int = 0) -> tuple[TrainState, TrainState]:
    """A state on one device, and its shapes and shardings."""
    model, params = tiny_model(seed=step)
    optimizer = optax.adam(0.1)
    shardings = train_state_shardings(model, optimizer, make_mesh(MeshOptions(), jax.devices()[:1]))
    state = init_state(jax.device_put(params, shardings.params), model, optimizer, shardings)
    state = state.replace(step=jax.device_put(jnp.int32(step), shardings.step))
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )
    return state, abstract


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(some_state(step)[0], step, ITERATOR | {"step": step}, {"stage": 1}, {"model_type": "x"})


def test_restored_state_is_bit_equal_and_brings_the_iterator(tmp_path):
    state, abstract = some_state(3)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        save(checkpoints, 3)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() == 3
        restored, iterator = checkpoints.restore(3, abstract)
    assert iterator == ITERATOR | {"step": 3}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.sharding == theirs.sharding
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, step)
            save(checkpoints, step)  # saved already
        assert checkpoints.latest() == 3
    kept = sorted(path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir())
    assert kept == ["2", "3"]


def test_a_half_written_step_is_ignored(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 1)
    complete = tmp_path / CHECKPOINTS_FOLDER / "1"
    shutil.copytree(complete, tmp_path / CHECKPOINTS_FOLDER / "2.orbax-checkpoint-tmp")
    shutil.rmtree(tmp_path / CHECKPOINTS_FOLDER / "2.orbax-checkpoint-tmp" / "state")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() == 1
        restored, _ = checkpoints.restore(1, some_state(1)[1])
        assert int(restored.step) == 1
        save(checkpoints, 2)
        assert checkpoints.latest() == 2
