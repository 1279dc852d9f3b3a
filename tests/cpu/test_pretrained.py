"""Models that can be named: the newest checkpoint of a run, and each that is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import pytest

import prorank_jax.export_folder
from prorank_jax.checkpoint import Checkpoints
from prorank_jax.config_files import config_to_dict, load_config
from prorank_jax.export_folder import export_folder
from prorank_jax.model_identity import known_as, model_identity, weights_fingerprint
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.models.weights import host_sharding
from prorank_jax.pretrained import open_pretrained
from prorank_jax.run_folder import (
    CHECKPOINTS_FOLDER,
    MODEL_CONFIG_FILE,
    TOKENIZER_FOLDER,
    write_config,
    write_json,
)
from prorank_jax.trained_on import training_splits
from prorank_jax.types import Params, TrainState
from tests.cpu.models.checkpoint_files import assert_bit_equal
from tests.cpu.tiny import tiny_model
from tests.cpu.tiny_run import TOKENIZER, TOKENIZER_SIZE

STEPS = (1, 2, 3)


def params_of(step: int) -> Params:
    return tiny_model(seed=step, vocab_size=TOKENIZER_SIZE, max_positions=256)[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """What a run leaves that keeps three checkpoints, each with parameters of its own."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = load_config(None, {"output_dir": str(folder), "train.steps": 3, "optimizer.warmup_steps": 1})
    shape = tiny_model(vocab_size=TOKENIZER_SIZE, max_positions=256)[0].config
    folder.mkdir()
    write_config(folder, config)
    write_json(folder / MODEL_CONFIG_FILE, shape.to_hf())
    save_tokenizer(load_tokenizer(str(TOKENIZER)), folder / TOKENIZER_FOLDER)
    with Checkpoints(folder, keep=len(STEPS)) as checkpoints:
        for step in STEPS:
            state = TrainState(step=np.int32(step), params=params_of(step), opt_state=np.zeros(1))
            checkpoints.save(state, step, {}, config_to_dict(config), shape.to_hf())
    return folder


def as_left_at(step: int, run: Path, folder: Path) -> Path:
    """A copy of the run as it was when a step was the newest."""
    shutil.copytree(run, folder)
    for later in (other for other in STEPS if other > step):
        shutil.rmtree(folder / CHECKPOINTS_FOLDER / str(later))
    return folder


def assert_parameters(source: str, step: int) -> None:
    assert_bit_equal(open_pretrained(source).load_params(None), jax.tree.map(np.asarray, params_of(step)))


@pytest.mark.parametrize("step", STEPS)
def test_each_checkpoint_that_is_kept_can_be_opened(step, run):
    assert_parameters(f"{run}@{step}", step)


def test_without_a_step_the_newest_is_opened(run):
    assert_parameters(str(run), STEPS[-1])


def test_a_folder_whose_own_name_holds_an_at_sign_is_that_folder(run, tmp_path):
    own = as_left_at(2, run, tmp_path / "run@1")
    assert_parameters(str(own), 2)
    assert_parameters(f"{own}@1", 1)
    assert model_identity(str(own))["model_step"] == 2


@pytest.mark.parametrize("step", STEPS)
def test_a_named_checkpoint_is_known_as_it_was_when_it_was_the_newest(step, run, tmp_path):
    before = as_left_at(step, run, tmp_path / "then")
    named, newest = model_identity(f"{run}@{step}"), model_identity(str(before))
    assert named == newest | {"model": f"{run}@{step}"}
    assert named["model_step"] == step
    assert weights_fingerprint(f"{run}@{step}") == weights_fingerprint(str(before))


def test_a_step_that_is_not_there_is_refused_with_those_that_are(run, tmp_path):
    uses = (open_pretrained, model_identity, weights_fingerprint, lambda name: export_folder(name, tmp_path))
    for use in uses:
        with pytest.raises(ValueError, match=r"run@4': .*no checkpoint of step 4; there are: 1, 2, 3 "):
            use(f"{run}@4")
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_a_named_checkpoint_is_of_its_weights_and_says_so(run, tmp_path):
    export_folder(f"{run}@2", tmp_path / "out")
    assert_parameters(str(tmp_path / "out"), 2)
    assert "### Run 1: stage 1, 2 of 3 steps" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
@pytest.mark.parametrize("kind", ["run", "folder"])
def test_an_export_keeps_the_model_off_the_accelerators(kind, run, tmp_path, monkeypatch):
    source = str(run)
    if kind == "folder":
        export_folder(source, tmp_path / "model")
        source = str(tmp_path / "model")
    cpu, accelerator = jax.devices()[:2]  # which the second one plays, before the CPU in jax's list
    monkeypatch.setattr(
        jax, "local_devices", lambda backend=None: [accelerator] if backend is None else [cpu]
    )
    save = Mock(side_effect=prorank_jax.export_folder.save_params)
    monkeypatch.setattr(prorank_jax.export_folder, "save_params", save)
    export_folder(source, tmp_path / "out")
    assert {device for leaf in jax.tree.leaves(save.call_args.args[0]) for device in leaf.devices()} == {cpu}
    assert_parameters(str(tmp_path / "out"), STEPS[-1])


def test_without_the_cpu_among_the_platforms_the_first_device_holds_an_export(monkeypatch):
    first = jax.devices()[-1]

    def local_devices(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu. Available backends are ['cuda']")
        return [first]

    monkeypatch.setattr(jax, "local_devices", local_devices)
    assert host_sharding().device_set == {first}


def test_names_of_one_checkpoint_go_on_with_one_anothers_work(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    for name in ("run@2", "run/@2", f"{run}@2"):
        assert known_as(name, "run@2") == "run@2"
    for other in ("run", "run@1", "run@4"):
        assert known_as(other, "run@2") == other
    assert known_as("run@2", "run") == "run@2"


def test_what_a_checkpoint_was_trained_on_is_what_its_run_was(run):
    assert training_splits(f"{run}@1") == training_splits(str(run)) != []
