"""Weights out: bit-equal round trips, transformers' own names, shards, and nothing half-written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import prorank_jax.models.export
from prorank_jax.models.export import save_params
from prorank_jax.models.weights import load_model_config, load_params
from tests.cpu.disk_order import DiskOrder
from tests.cpu.models.checkpoint_files import (
    assert_bit_equal,
    hf_tensors,
)


def test_import_export_import_is_bit_equal(golden, tmp_path):
    save_params(golden.params, golden.config, tmp_path / "out")
    assert load_model_config(tmp_path / "out") == golden.config
    assert_bit_equal(load_params(tmp_path / "out", golden.config), golden.params)


def test_exported_names_are_those_of_transformers(golden, tmp_path):
    save_params(golden.params, golden.config, tmp_path / "out")
    ours, theirs = load_file(tmp_path / "out" / "model.safetensors"), hf_tensors(golden)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor.astype(np.float32))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_and_their_index_load_back(golden, tmp_path):
    folder = tmp_path / "out"
    save_params(golden.params, golden.config, folder, max_shard_bytes=20_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == sum(4 * leaf.size for leaf in jax.tree.leaves(golden.params))
    assert_bit_equal(load_params(folder, golden.config), golden.params)


def test_bfloat16_export_rounds_to_nearest(qwen2, tmp_path):
    params = jax.tree.map(lambda leaf: leaf * np.float32(1.001), qwen2.params)
    save_params(params, qwen2.config, tmp_path / "out", dtype="bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    rounded = jax.tree.map(
        lambda leaf: np.asarray(leaf).astype(ml_dtypes.bfloat16).astype(np.float32), params
    )
    assert_bit_equal(load_params(tmp_path / "out", qwen2.config), rounded)


def test_shards_of_bfloat16_are_planned_by_its_own_size(qwen2, tmp_path):
    size = sum(2 * leaf.size for leaf in jax.tree.leaves(qwen2.params))
    save_params(qwen2.params, qwen2.config, tmp_path, dtype="bfloat16", max_shard_bytes=size)
    assert (tmp_path / "model.safetensors").is_file()  # one shard holds it
    save_params(qwen2.params, qwen2.config, tmp_path / "two", dtype="bfloat16", max_shard_bytes=size - 1)
    index = json.loads((tmp_path / "two" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == size
    assert len(set(index["weight_map"].values())) == 2


def test_export_refuses_to_overwrite_and_leaves_nothing_behind(qwen2, tmp_path):
    save_params(qwen2.params, qwen2.config, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="already holds"):
        save_params(qwen2.params, qwen2.config, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_to_is_named_as_it_was_given(qwen2, tmp_path, monkeypatch):
    def refuse(*, dir: Path, prefix: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/{prefix}x")

    monkeypatch.setattr(prorank_jax.models.export.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(PermissionError) as raised:
        save_params(qwen2.params, qwen2.config, tmp_path / "out")
    assert raised.value.filename == str(tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "made_by.json"])
def test_a_full_disk_is_named_whichever_file_meets_it(name, qwen2, tmp_path, monkeypatch):
    def full(file: Path, *given, **more) -> int:
        if file.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write tells it, without the file
        return write(file, *given, **more)

    write = Path.write_text
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as raised:
        save_params(qwen2.params, qwen2.config, tmp_path / "out")
    assert str(raised.value.filename).startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_export_keeps_other_files_of_the_folder(qwen2, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    save_params(qwen2.params, qwen2.config, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_the_config_comes_last_into_a_folder_that_is_there(qwen2, tmp_path, monkeypatch):
    """A folder without it is not taken for a model, should the others not all arrive."""
    moved, replace = [], Path.replace

    def noted(file: Path, target: Path) -> Path:
        moved.append(file.name)
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", noted)
    save_params(qwen2.params, qwen2.config, tmp_path)
    assert moved == ["model.safetensors", "config.json"]


@pytest.mark.parametrize("is_there", [True, False])
def test_an_export_is_on_the_disk_before_it_has_its_name(is_there, qwen2, tmp_path, monkeypatch):
    if is_there:
        (tmp_path / "out").mkdir()
    order = DiskOrder(monkeypatch)
    save_params(qwen2.params, qwen2.config, tmp_path / "out")
    assert order.named == 2
    assert order.too_early == []


def test_an_interrupted_export_leaves_no_model(qwen2, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr("prorank_jax.models.export.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_params(qwen2.params, qwen2.config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("problem", ["missing", "extra", "shape", "dtype", "shard size", "file"])
def test_export_names_what_does_not_fit(qwen2, tmp_path, problem):
    params, options = jax.tree.map(lambda leaf: leaf, qwen2.params), {}
    folder = tmp_path / "out"
    if problem == "missing":
        del params["layers"]["mlp"]["down"]["kernel"]
    elif problem == "extra":
        params["adapter"] = np.zeros(3, np.float32)
    elif problem == "shape":
        params["final_norm"]["scale"] = np.zeros(3, np.float32)
    elif problem == "dtype":
        options["dtype"] = "float16"
    elif problem == "shard size":
        options["max_shard_bytes"] = 0
    else:
        folder.write_text("")
    named = {
        "missing": r"layers\.mlp\.down\.kernel",
        "extra": "arrays",
        "shape": r"final_norm\.scale",
        "dtype": "dtype='float16'",
        "shard size": "max_shard_bytes",
        "file": "is a file",
    }
    with pytest.raises(ValueError, match=named[problem]):
        save_params(params, qwen2.config, folder, **options)
