"""In a bucket a save writes under its step's name: what a killed one left is told from every other thing."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from prorank_jax import killed_saves
from prorank_jax.killed_saves import COMPLETE_MARKER, STEP_METADATA, delete_killed_saves
from prorank_jax.run_folder import FROZEN_FOLDER
from prorank_jax.saved_state import save_frozen

BEGUN = {"init_timestamp_nsecs": 1796023091949067131, "commit_timestamp_nsecs": None}
ENDED = BEGUN | {"commit_timestamp_nsecs": 1796023092916654674}


@pytest.fixture(autouse=True)
def _in_a_bucket(monkeypatch) -> None:
    """A local folder is taken for one of a bucket."""
    monkeypatch.setattr(killed_saves, "has_no_folders", lambda _: True)


def save_as_in_a_bucket(folder: Path, step: int) -> None:
    kind = ocp.path.atomicity.CommitFileTemporaryPath
    options = ocp.CheckpointManagerOptions(temporary_path_class=kind, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder, options=options) as manager:
        manager.save(step, args=ocp.args.StandardSave({"a": np.arange(8.0)}))


def test_a_save_that_orbax_did_not_end_goes_and_one_that_it_ended_stays(tmp_path, monkeypatch):
    save_as_in_a_bucket(tmp_path, 4)
    complete = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    killed = Mock(side_effect=SystemExit)
    monkeypatch.setattr(ocp.path.atomicity.CommitFileTemporaryPath, "finalize", killed)
    with pytest.raises(SystemExit):
        save_as_in_a_bucket(tmp_path, 8)
    assert (tmp_path / "8" / STEP_METADATA).is_file()
    delete_killed_saves(epath.Path(tmp_path))
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == complete


def test_frozen_weights_that_orbax_did_not_end_go_and_those_that_it_ended_stay(tmp_path, monkeypatch):
    kind = ocp.path.atomicity.CommitFileTemporaryPath
    default = Mock(return_value=kind)
    monkeypatch.setattr(ocp.path.atomicity_defaults, "get_default_temporary_path_class", default)
    for name in ("ended", "killed"):
        (tmp_path / name).mkdir()
    save_frozen(epath.Path(tmp_path / "ended"), {"a": np.arange(8.0)})
    monkeypatch.setattr(kind, "finalize", Mock(side_effect=SystemExit))
    with pytest.raises(SystemExit):
        save_frozen(epath.Path(tmp_path / "killed"), {"a": np.arange(8.0)})
    for name in ("ended", "killed"):
        assert (tmp_path / name / FROZEN_FOLDER / STEP_METADATA).is_file()
        delete_killed_saves(epath.Path(tmp_path / name))
    assert (tmp_path / "ended" / FROZEN_FOLDER / "weights").is_dir()
    assert not (tmp_path / "killed" / FROZEN_FOLDER).exists()


def write_step(folder: Path, metadata: object | None, *more: str) -> Path:
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "data").write_text("weights")
    for name in more:
        (folder / name).write_text("")
    if metadata is not None:
        (folder / STEP_METADATA).write_text(json.dumps(metadata))
    return folder


@pytest.mark.parametrize(
    ("name", "metadata", "more"),
    [
        ("37", BEGUN, [COMPLETE_MARKER]),
        ("37", ENDED, []),  # a copy without the marker, or killed in the moment before it
        ("37", None, []),
        ("37", {}, []),
        ("37", [], []),
        ("37", {"commit_timestamp_nsecs": None}, []),
        ("37.damaged", BEGUN, []),
        ("mine", BEGUN, []),
    ],
    ids=str,
)
def test_what_is_not_certainly_of_a_killed_save_is_left_alone(name, metadata, more, tmp_path, caplog):
    step = write_step(tmp_path / name, metadata, *more)
    delete_killed_saves(epath.Path(tmp_path))
    assert (step / "state" / "data").is_file()
    is_named = name.isdecimal() and not more
    assert [f"{step}: lacks {COMPLETE_MARKER}" in said for said in caplog.messages] == [True] * is_named


def test_all_that_killed_saves_left_goes_whatever_step_is_the_newest(tmp_path, caplog):
    for name in ("7", "37", "190"):
        write_step(tmp_path / name, BEGUN)
    write_step(tmp_path / "40", ENDED, COMPLETE_MARKER)
    delete_killed_saves(epath.Path(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["40"]
    assert not caplog.messages
    delete_killed_saves(epath.Path(tmp_path / "nothing yet"))


def test_a_client_that_refuses_to_delete_is_told_of_and_stops_nothing(tmp_path, monkeypatch, caplog):
    steps = [write_step(tmp_path / name, BEGUN) for name in ("7", "37")]
    refused = Mock(side_effect=RuntimeError("403, no storage.objects.delete"))
    monkeypatch.setattr(type(epath.Path(tmp_path)), "rmtree", refused)
    delete_killed_saves(epath.Path(tmp_path))
    assert len(caplog.messages) == len(steps)
    assert all("left by a killed save, and cannot be deleted (403" in said for said in caplog.messages)
