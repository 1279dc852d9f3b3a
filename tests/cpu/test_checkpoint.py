"""A checkpoint gives back every bit, and a save that was killed is as if it had never begun."""

from __future__ import annotations

import errno
import shutil
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import prorank_jax.checkpoint
import prorank_jax.checkpoint_params
from prorank_jax.checkpoint import Checkpoints
from prorank_jax.checkpoint_params import restore_params
from prorank_jax.checkpoint_reading import DamagedCheckpointError
from prorank_jax.config import MeshOptions
from prorank_jax.models.lora import combine, merge_factors, split_factors
from prorank_jax.models.transformer import abstract_params
from prorank_jax.run_folder import CHECKPOINTS_FOLDER
from prorank_jax.sharding import make_mesh
from prorank_jax.stage_options import LoraOptions
from prorank_jax.storage_faults import OutOfReachError
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import TrainState
from tests.cpu.damage import cut_off, files_of, flip_a_bit
from tests.cpu.models.checkpoint_files import assert_bit_equal
from tests.cpu.tiny import tiny_config, tiny_model

ITERATOR = {"next_index": 12, "nested": {"seed": 2**31 + 5}}


@cache
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


def test_what_killed_saves_left_is_deleted_and_nothing_else(tmp_path):
    """A checkpoint may be larger than all the room that is left."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 1)
    folder = tmp_path / CHECKPOINTS_FOLDER
    kept = ["1", "2.damaged", "mine"]
    for name in (*kept[1:], "2.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-17"):
        (folder / name / "state").mkdir(parents=True)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 4)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*kept, "4"])


def test_a_killed_save_that_cannot_be_deleted_is_told_of_and_stops_nothing(tmp_path, monkeypatch, caplog):
    left = tmp_path / CHECKPOINTS_FOLDER / "2.orbax-checkpoint-tmp"
    left.mkdir(parents=True)
    refused = PermissionError(errno.EACCES, "Permission denied", str(left))
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=refused))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 4)
        assert checkpoints.latest() == 4
    (told,) = (record.getMessage() for record in caplog.records if record.name == "prorank_jax.killed_saves")
    assert told.startswith(f"{left}: left by a killed save, and cannot be deleted")


def test_a_data_position_that_is_not_what_was_saved_is_damage(tmp_path):
    """Of a digit that becomes another one nothing but the fingerprint tells."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 1)
        files = [
            file for file in (tmp_path / CHECKPOINTS_FOLDER / "1" / "iterator").rglob("*") if file.is_file()
        ]
        (position,) = (file for file in files if b'"next_index"' in file.read_bytes())
        position.write_bytes(position.read_bytes().replace(b"12", b"13"))
        with pytest.raises(DamagedCheckpointError, match="iterator is not what was saved"):
            checkpoints.restore(1, some_state(1)[1])


def test_a_save_is_complete_when_it_returns(tmp_path):
    """On a CPU: the next step's donation overwrites the arrays that a save in the background would read."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 1)
        assert [path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir()] == ["1"]


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_bit, cut_off])
def test_whichever_file_is_damaged_what_is_restored_is_what_was_saved(tmp_path, damage, caplog):
    """Either the step is intact all the same, or the one before it is taken and the damage is named."""
    with Checkpoints(tmp_path / "intact", keep=3) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
    fallen_back = set()
    for number, file in enumerate(files_of(tmp_path / "intact" / CHECKPOINTS_FOLDER / "2")):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "intact", folder)
        damage(folder / CHECKPOINTS_FOLDER / "2" / file)
        caplog.clear()
        with Checkpoints(folder, keep=3) as checkpoints:
            (restored, iterator), step = checkpoints.restore_newest(some_state(1)[1])
            saved = some_state(step)[0]
            for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
                assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes(), file
            assert iterator == ITERATOR | {"step": step}
            if step == 1:
                fallen_back.add(str(file))
                assert f"{CHECKPOINTS_FOLDER}/2" in caplog.text
                assert (folder / CHECKPOINTS_FOLDER / "2.damaged").is_dir()
                save(checkpoints, 2)  # the run goes on and comes there again
                assert checkpoints.latest() == 2
            else:
                # Of ours: asyncio may tell only now what an earlier damage did to Orbax.
                assert not [record for record in caplog.records if record.name.startswith("prorank_jax")]
        shutil.rmtree(folder)
    assert any("iterator" in name for name in fallen_back)
    assert any("process_0/d/" in name for name in fallen_back)  # the arrays themselves


@pytest.mark.parametrize("half", ["state", "optimizer", "iterator", "digests", ""])
def test_a_half_deleted_step_is_skipped(tmp_path, half):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
    shutil.rmtree(tmp_path / CHECKPOINTS_FOLDER / "2" / half)
    (tmp_path / CHECKPOINTS_FOLDER / "2").mkdir(exist_ok=True)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        found = checkpoints.restore_newest(some_state(1)[1])
    assert found is not None
    assert found[1] == 1


def test_a_step_that_is_damaged_again_is_set_aside_beside_the_first(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        save(checkpoints, 1)
    aside = ["2.damaged", "2.damaged.2", "2.damaged.3"]
    for times in (1, 2, 3):
        with Checkpoints(tmp_path, keep=3) as checkpoints:
            save(checkpoints, 2)
        shutil.rmtree(tmp_path / CHECKPOINTS_FOLDER / "2" / "state")
        with Checkpoints(tmp_path, keep=3) as checkpoints:
            found = checkpoints.restore_newest(some_state(1)[1])
        assert found is not None
        assert found[1] == 1
        there = sorted(path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir())
        assert there == ["1", *aside[:times]]


def below_one_that_tells_nothing(error: Exception) -> Exception:
    vague = Exception("Encountered error while reading array index")
    vague.__cause__ = error
    return vague


NOT_NOW = [
    (ConnectionResetError(errno.ECONNRESET, "reset"), OutOfReachError, "reset"),
    (OSError(errno.ESTALE, "Stale file handle"), OutOfReachError, "Stale"),
    (below_one_that_tells_nothing(ValueError("UNAVAILABLE: Error opening")), OutOfReachError, "UNAVAILABLE"),
    (ValueError("RESOURCE_EXHAUSTED: Failed to open: Too many open files"), OSError, "Too many"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), jax.errors.JaxRuntimeError, "memory"),
]


def test_a_step_that_cannot_be_read_at_present_is_not_taken_for_damaged(tmp_path, monkeypatch):
    abstract = some_state(1)[1]
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
        for error, expected, message in NOT_NOW:
            monkeypatch.setattr(ocp.CompositeCheckpointHandler, "restore", Mock(side_effect=error))
            with pytest.raises(expected, match=message):
                checkpoints.restore_newest(abstract)
            with pytest.raises(expected, match=message):
                restore_params(tmp_path, tiny_config(), LoraOptions())
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir()) == ["1", "2"]


def test_processes_that_see_other_steps_do_not_go_on_from_different_ones(tmp_path, monkeypatch):
    """As a shared folder may show for a while, or folders of the same name that are not shared."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
        monkeypatch.setattr(prorank_jax.checkpoint, "gather_texts", lambda mine: [mine, "[1]"])
        with pytest.raises(OutOfReachError, match=r"checkpoints \[2, 1\], another one \[1\]"):
            checkpoints.restore_newest(some_state(1)[1])
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir()) == ["1", "2"]


def test_a_place_on_the_disk_that_has_gone_bad_is_damage(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        save(checkpoints, 1)
        bad = OSError(errno.EIO, "Input/output error")
        monkeypatch.setattr(ocp.CompositeCheckpointHandler, "restore", Mock(side_effect=bad))
        with pytest.raises(DamagedCheckpointError, match=r"/1: .*Input/output"):
            checkpoints.restore(1, some_state(1)[1])


def test_where_all_are_damaged_nothing_is_touched_and_a_reader_says_which(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / CHECKPOINTS_FOLDER / step / "state")
    with Checkpoints(tmp_path, keep=3) as checkpoints, pytest.raises(ValueError, match=r"\[1, 2\] can be"):
        checkpoints.restore_newest(some_state(1)[1])
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir()) == ["1", "2"]
    with pytest.raises(ValueError, match=f"{CHECKPOINTS_FOLDER}/2: .*the step before it"):
        restore_params(tmp_path, tiny_config(), LoraOptions())


def test_a_reader_of_parameters_notices_a_flipped_bit(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        save(checkpoints, 1)
    restore_params(tmp_path, tiny_config(), LoraOptions())
    arrays = tmp_path / CHECKPOINTS_FOLDER / "1" / "state" / "ocdbt.process_0" / "d"
    flip_a_bit(max(arrays.iterdir(), key=lambda file: file.stat().st_size))
    with pytest.raises(ValueError, match=r"/1: .*(params/.* is not what was saved|Error)"):
        restore_params(tmp_path, tiny_config(), LoraOptions())


def test_parameters_of_a_step_that_is_gone_are_refused(tmp_path):
    """Its run may go on, and delete it, after it was found."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, step)
    with pytest.raises(ValueError, match=r"no checkpoint of step 1; there are: 2, 3 "):
        restore_params(tmp_path, tiny_config(), LoraOptions(), step=1)


def test_factors_are_merged_one_kernel_after_the_other(tmp_path, monkeypatch):
    """All products at once would be a second copy of the layers."""
    lora, (plain, params) = LoraOptions(rank=2, alpha=6.0), tiny_model()
    shapes, _ = split_factors(nn.unbox(abstract_params(plain.clone(lora=lora))))
    factors = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), shapes)
    state = TrainState(step=np.int32(1), params=factors, opt_state=np.zeros(1), frozen=params)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, 1, {}, {}, {})
    add = Mock(side_effect=prorank_jax.checkpoint_params.add_product_in_place)
    monkeypatch.setattr(prorank_jax.checkpoint_params, "add_product_in_place", add)
    restored = restore_params(tmp_path, tiny_config(), lora)
    expected = jax.jit(lambda whole: merge_factors(whole, lora.scale))(combine(params, factors))
    assert_bit_equal(restored, expected)
    assert add.call_count == 7
