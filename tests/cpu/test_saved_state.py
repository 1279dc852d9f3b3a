"""What only training reads, and what never changes, lies apart, and comes back with each checkpoint."""

from __future__ import annotations

import errno
import json
import os
import shutil
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from etils import epath

import prorank_jax.checkpoint
import prorank_jax.checkpoint_params
from prorank_jax.checkpoint import SPARE_BYTES, Checkpoints
from prorank_jax.checkpoint_params import restore_params
from prorank_jax.checkpoint_reading import DamagedCheckpointError
from prorank_jax.config import MeshOptions
from prorank_jax.models.lora import combine, merge_factors
from prorank_jax.run_folder import CHECKPOINTS_FOLDER, FROZEN_FOLDER, OPTIMIZER_ITEM
from prorank_jax.saved_state import STATE_ITEM, bytes_of
from prorank_jax.sharding import make_mesh
from prorank_jax.stage_options import LoraOptions
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import TrainState
from tests.cpu.damage import cut_off, files_of, flip_a_bit
from tests.cpu.models.checkpoint_files import assert_bit_equal
from tests.cpu.tiny import tiny_config, tiny_model

LORA = LoraOptions(rank=2, alpha=6.0)


@cache
def some_state(step: int, source: int = 0, devices: int = 1) -> TrainState:
    """The factors differ from step to step, the frozen weights from source to source."""
    model, params = tiny_model(seed=source)
    model = model.clone(lora=LORA)
    optimizer = optax.adam(0.1)
    mesh = make_mesh(MeshOptions(data=1, fsdp=devices), jax.devices()[:devices])
    shardings = train_state_shardings(model, optimizer, mesh)
    state = init_state(jax.device_put(params, shardings.frozen), model, optimizer, shardings, seed=step)
    return state.replace(
        step=jax.device_put(jnp.int32(step), shardings.step),
        params=jax.tree.map(lambda leaf: leaf + 0.01 * step, state.params),
    )


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def save(folder: Path, *states: TrainState) -> None:
    with Checkpoints(folder, keep=5) as checkpoints:
        for state in states:
            checkpoints.save(state, int(state.step), {}, {}, {})


def assert_same_state(first: TrainState, second: TrainState) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def merged(state: TrainState) -> dict:
    return jax.jit(lambda whole: merge_factors(whole, LORA.scale))(combine(state.frozen, state.params))


def as_an_earlier_version(monkeypatch) -> None:
    """All of a state in one item of each step."""
    monkeypatch.setattr(prorank_jax.checkpoint, "are_apart", lambda *_: False)
    monkeypatch.setattr(prorank_jax.checkpoint, "parts_to_save", lambda state: {STATE_ITEM: state})


def test_they_are_saved_with_the_first_step_only(tmp_path):
    save(tmp_path, some_state(1))
    frozen = tmp_path / CHECKPOINTS_FOLDER / FROZEN_FOLDER
    before = {file: file.stat().st_mtime_ns for file in frozen.rglob("*")}
    assert before
    save(tmp_path, some_state(2), some_state(3))
    assert {file: file.stat().st_mtime_ns for file in frozen.rglob("*")} == before
    with ocp.StandardCheckpointer() as reader:
        saved = reader.restore(tmp_path / CHECKPOINTS_FOLDER / "3" / "state")
    assert not jax.tree.leaves(saved["frozen"])
    assert len(jax.tree.leaves(saved["params"])) == len(jax.tree.leaves(some_state(3).params))
    assert not jax.tree.leaves(saved["opt_state"])


@pytest.mark.parametrize("devices", [1, 8])
def test_every_step_comes_back_whole_on_any_mesh(tmp_path, devices):
    save(tmp_path, some_state(1), some_state(2))
    for step in (1, 2):
        like = abstract(some_state(step, devices=devices))
        with Checkpoints(tmp_path, keep=5) as checkpoints:
            restored = checkpoints.restore(step, like).state
        assert_same_state(restored, some_state(step))
        assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(
            lambda leaf: leaf.sharding, like
        )
        assert_bit_equal(restore_params(tmp_path, tiny_config(), LORA, step=step), merged(some_state(step)))


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.sgd(0.1)], ids=["moments", "nothing"])
def test_where_all_is_trained_only_the_optimizers_state_lies_apart(tmp_path, optimizer):
    model, params = tiny_model()
    shardings = train_state_shardings(model, optimizer, make_mesh(MeshOptions(), jax.devices()[:1]))
    state = init_state(jax.device_put(params, shardings.params), model, optimizer, shardings)
    state = state.replace(step=jax.device_put(jnp.int32(1), shardings.step))
    save(tmp_path, state)
    step = tmp_path / CHECKPOINTS_FOLDER / "1"
    assert not (step.parent / FROZEN_FOLDER).exists()
    assert (step / OPTIMIZER_ITEM).exists() == bool(jax.tree.leaves(state.opt_state))
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        assert_same_state(checkpoints.restore(1, abstract(state)).state, state)
    shutil.rmtree(step / OPTIMIZER_ITEM, ignore_errors=True)  # as what was fetched from a URL
    assert_bit_equal(restore_params(tmp_path, tiny_config(), LoraOptions()), params)


def test_what_a_start_left_that_saved_no_step_is_replaced(tmp_path):
    """It may have started from other weights, for a run without a step compares nothing with them."""
    save(tmp_path, some_state(1, source=7))
    shutil.rmtree(tmp_path / CHECKPOINTS_FOLDER / "1")
    save(tmp_path, some_state(1))
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        restored, step = checkpoints.restore_newest(abstract(some_state(1)))
    assert step == 1
    assert_same_state(restored.state, some_state(1))


def test_weights_of_another_start_are_noticed(tmp_path):
    save(tmp_path, some_state(1))
    save(tmp_path / "other", some_state(1, source=7))
    for folder in (tmp_path, tmp_path / "other"):
        (folder / CHECKPOINTS_FOLDER / FROZEN_FOLDER).rename(folder / FROZEN_FOLDER)
    (tmp_path / "other" / FROZEN_FOLDER).rename(tmp_path / CHECKPOINTS_FOLDER / FROZEN_FOLDER)
    told = r"checkpoints/frozen: frozen/.* is not what was saved; all checkpoints need it: bring it back"
    with Checkpoints(tmp_path, keep=5) as checkpoints, pytest.raises(DamagedCheckpointError, match=told):
        checkpoints.restore_newest(abstract(some_state(1)))
    assert (tmp_path / CHECKPOINTS_FOLDER / "1").is_dir()  # it is intact, and not set aside
    with pytest.raises(DamagedCheckpointError, match=told) as caught:
        restore_params(tmp_path, tiny_config(), LORA)
    assert "take its folder away" not in str(caught.value)


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_bit, cut_off])
def test_whichever_file_of_them_is_damaged_no_step_is_set_aside(tmp_path, damage):
    save(tmp_path / "intact", some_state(1), some_state(2))
    refused = set()
    for number, file in enumerate(files_of(tmp_path / "intact" / CHECKPOINTS_FOLDER / FROZEN_FOLDER)):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "intact", folder)
        damage(folder / CHECKPOINTS_FOLDER / FROZEN_FOLDER / file)
        with Checkpoints(folder, keep=5) as checkpoints:
            try:
                found = checkpoints.restore_newest(abstract(some_state(2)))
            except ValueError:
                refused.add(str(file))
            else:
                assert found is not None
                assert found[1] == 2
                assert_same_state(found[0].state, some_state(2))
        assert {"1", "2"} <= {path.name for path in (folder / CHECKPOINTS_FOLDER).iterdir()}
        shutil.rmtree(folder)
    assert any("/d/" in name for name in refused)  # the arrays themselves


def test_a_step_with_a_damaged_fingerprint_of_them_is_set_aside(tmp_path):
    """The step before it says that the weights themselves are intact."""
    save(tmp_path, some_state(1), some_state(2))
    (digests,) = (file for file in (tmp_path / CHECKPOINTS_FOLDER / "2" / "digests").rglob("metadata"))
    content = json.loads(digests.read_text())
    content["frozen/embedding"] ^= 1
    digests.write_text(json.dumps(content))
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        found = checkpoints.restore_newest(abstract(some_state(1)))
    assert found is not None
    assert found[1] == 1
    assert (tmp_path / CHECKPOINTS_FOLDER / "2.damaged").is_dir()


@pytest.mark.parametrize("place", [f"{FROZEN_FOLDER}/weights", f"2/{OPTIMIZER_ITEM}"])
def test_a_passing_fault_of_the_disk_is_no_damage(tmp_path, place, monkeypatch):
    """`exists` would say that nothing is there, and an intact step would be read in the wrong way."""
    save(tmp_path, some_state(1), some_state(2))
    kind = type(epath.Path(tmp_path))
    look = kind.stat

    def fail_once(path, *given):
        if str(path).endswith(f"{place}/_METADATA"):
            monkeypatch.setattr(kind, "stat", look)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return look(path, *given)

    monkeypatch.setattr(kind, "stat", fail_once)
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        with pytest.raises(OSError, match=r"[Ss]tale") as caught:
            checkpoints.restore_newest(abstract(some_state(2)))
        assert not isinstance(caught.value, ValueError)
        assert not list(tmp_path.rglob("*.damaged"))
        found = checkpoints.restore_newest(abstract(some_state(2)))
    assert found is not None
    assert found[1] == 2


def test_without_them_a_step_is_no_use(tmp_path):
    save(tmp_path, some_state(1))
    shutil.rmtree(tmp_path / CHECKPOINTS_FOLDER / FROZEN_FOLDER)
    with (
        Checkpoints(tmp_path, keep=5) as checkpoints,
        pytest.raises(DamagedCheckpointError, match=r"checkpoints/1: .*frozen"),
    ):
        checkpoints.restore(1, abstract(some_state(1)))
    with pytest.raises(DamagedCheckpointError, match=r"checkpoints/1: .*frozen"):
        restore_params(tmp_path, tiny_config(), LORA)


def test_a_run_of_an_earlier_version_goes_on_in_its_way(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        as_an_earlier_version(patch)
        save(tmp_path, some_state(1))
    save(tmp_path, some_state(2))
    assert not (tmp_path / CHECKPOINTS_FOLDER / FROZEN_FOLDER).exists()
    items = [(tmp_path / CHECKPOINTS_FOLDER / name / OPTIMIZER_ITEM).exists() for name in ("1", "2")]
    assert items == [False, True]
    for step in (1, 2):
        with Checkpoints(tmp_path, keep=5) as checkpoints:
            assert_same_state(checkpoints.restore(step, abstract(some_state(step))).state, some_state(step))
        assert_bit_equal(restore_params(tmp_path, tiny_config(), LORA, step=step), merged(some_state(step)))


def test_room_is_asked_for_what_is_written(tmp_path, monkeypatch):
    check = Mock()
    monkeypatch.setattr(prorank_jax.checkpoint, "check_room", check)
    save(tmp_path, some_state(1), some_state(2))
    asked = [call.args[1] - SPARE_BYTES for call in check.call_args_list]
    state = some_state(1)
    assert asked == [bytes_of(state), bytes_of(state) - bytes_of(state.frozen)]
