"""Hugging Face weights in: every tensor accounted for, shards, shardings and memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prorank_jax.models.config import ModelConfig
from prorank_jax.models.export import save_params
from prorank_jax.models.key_table import HF, key_table
from prorank_jax.models.weights import load_params
from tests.cpu.models.checkpoint_files import (
    EMBEDDING,
    QUERY,
    assert_bit_equal,
    copy_of,
    hf_tensors,
    random_params,
)


def test_tied_models_accept_a_repeated_head_and_refuse_another(qwen2, tmp_path):
    embedding = hf_tensors(qwen2)[EMBEDDING].astype(np.float32)
    same = copy_of(qwen2, tmp_path / "same", {"lm_head.weight": embedding})
    assert_bit_equal(load_params(same, qwen2.config), qwen2.params)
    other = copy_of(qwen2, tmp_path / "other", {"lm_head.weight": embedding + 1})
    with pytest.raises(ValueError, match=r"'lm_head\.weight' differs.*tie_word_embeddings"):
        load_params(other, qwen2.config)
    small = copy_of(qwen2, tmp_path / "small", {"lm_head.weight": embedding[:-1].copy()})
    with pytest.raises(ValueError, match=r"'lm_head\.weight'.*another shape"):
        load_params(small, qwen2.config)


def test_old_rotary_buffers_are_left_out(qwen2, tmp_path):
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "model.rotary_emb.inv_freq": np.ones(4, np.float32),
    }
    assert_bit_equal(load_params(copy_of(qwen2, tmp_path, buffers), qwen2.config), qwen2.params)


@pytest.mark.parametrize(
    ("changes", "removed", "named"),
    [
        ({}, [QUERY], f"missing tensor '{QUERY}'"),
        (
            {"model.layers.0.mlp.extra": np.ones(2, np.float32)},
            [],
            r"unknown tensor 'model\.layers\.0\.mlp\.extra'",
        ),
        ({"model.layers.3.mlp.up_proj.weight": np.ones((48, 32), np.float32)}, [], r"unknown.*layers\.3"),
        ({QUERY: np.ones((32, 33), np.float32)}, [], r"q_proj.*has shape \[32, 33\], expected \[32, 32\]"),
        ({QUERY: np.ones((32, 32), np.int8)}, [], r"q_proj\.weight' is I8"),
        ({QUERY: np.ones((32, 32), np.float64)}, [], r"q_proj\.weight' is F64"),
    ],
)
def test_every_tensor_is_accounted_for(qwen2, tmp_path, changes, removed, named):
    with pytest.raises(ValueError, match=named):
        load_params(copy_of(qwen2, tmp_path, changes, removed), qwen2.config)


@pytest.mark.parametrize("golden", ["qwen2_untied", "llama"], indirect=True)
def test_an_untied_model_needs_its_head(golden, tmp_path):
    with pytest.raises(ValueError, match=r"missing tensor 'lm_head\.weight'"):
        load_params(copy_of(golden, tmp_path, removed=["lm_head.weight"]), golden.config)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ([], "holds neither model.safetensors nor"),
        (["pytorch_model.bin"], r"only pickled weights \(pytorch_model\.bin\).*save_pretrained"),
        (["adapter_model.safetensors"], "holds neither"),
        (["model.gguf"], r"name the GGUF file itself.*model\.gguf"),
    ],
)
def test_folders_without_safetensors_say_what_to_do(qwen2, tmp_path, files, named):
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=named):
        load_params(tmp_path, qwen2.config)


class TestIndex:
    """Sharded folders whose index and files do not agree."""

    INDEX = "model.safetensors.index.json"

    @pytest.fixture
    def folder(self, qwen2, tmp_path) -> Path:
        save_params(qwen2.params, qwen2.config, tmp_path / "out", max_shard_bytes=20_000)
        return tmp_path / "out"

    def _edit(self, folder: Path, change) -> None:
        index = json.loads((folder / self.INDEX).read_text())
        change(index["weight_map"])
        (folder / self.INDEX).write_text(json.dumps(index))

    def _first_shard(self, folder: Path) -> Path:
        return sorted(folder.glob("model-*.safetensors"))[0]

    @pytest.mark.parametrize(
        "name", ["../model.safetensors", "/x.safetensors", "a/b.safetensors", "x.bin", 3, ".."]
    )
    def test_names_that_lead_elsewhere(self, qwen2, folder, name):
        self._edit(folder, lambda placement: placement.update({EMBEDDING: name}))
        with pytest.raises(ValueError, match=r"shards are \.safetensors files beside the index"):
            load_params(folder, qwen2.config)

    def test_a_missing_shard(self, qwen2, folder):
        self._first_shard(folder).unlink()
        with pytest.raises(ValueError, match=r"model-00001-of-\d+\.safetensors: this shard.*missing"):
            load_params(folder, qwen2.config)

    def test_a_tensor_in_two_shards(self, qwen2, folder):
        shards = sorted(folder.glob("model-*.safetensors"))
        save_file({**load_file(shards[1]), EMBEDDING: np.ones((64, 32), np.float32)}, shards[1])
        with pytest.raises(ValueError, match=rf"{EMBEDDING}' is also in model-00001"):
            load_params(folder, qwen2.config)

    def test_a_tensor_the_index_places_elsewhere(self, qwen2, folder):
        last = sorted(folder.glob("model-*.safetensors"))[-1]
        self._edit(folder, lambda placement: placement.update({EMBEDDING: last.name}))
        with pytest.raises(ValueError, match=f"holds tensor '{EMBEDDING}', which .* places in {last.name}"):
            load_params(folder, qwen2.config)

    def test_a_tensor_the_index_promises(self, qwen2, folder):
        shard = self._first_shard(folder)
        save_file({n: t for n, t in load_file(shard).items() if n != EMBEDDING}, shard)
        with pytest.raises(ValueError, match=f"lacks tensor '{EMBEDDING}'"):
            load_params(folder, qwen2.config)

    def test_an_index_without_a_map(self, qwen2, folder):
        (folder / self.INDEX).write_text("{}")
        with pytest.raises(ValueError, match="holds no weight_map"):
            load_params(folder, qwen2.config)

    def test_linked_shards_are_read_as_the_hub_cache_stores_them(self, qwen2, folder, tmp_path):
        for shard in folder.glob("model-*.safetensors"):
            shard.rename(tmp_path / f"blob-{shard.name}")
            shard.symlink_to(tmp_path / f"blob-{shard.name}")
        assert_bit_equal(load_params(folder, qwen2.config), qwen2.params)


def test_each_device_gets_its_own_part(golden):
    devices = np.array(jax.devices())
    if devices.size < 2:
        pytest.skip("needs two devices; tests run with several CPU devices by default")
    mesh = jax.sharding.Mesh(devices[: devices.size // 2 * 2].reshape(2, -1), ("fsdp", "data"))

    def split_widest(leaf):
        axes: list[str | None] = [None] * leaf.ndim
        axes[int(np.argmax(leaf.shape))] = "fsdp"
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

    shardings = jax.tree.map(split_widest, golden.params)
    params = load_params(golden.folder, golden.config, shardings)
    assert_bit_equal(params, golden.params)
    assert jax.tree.leaves(jax.tree.map(lambda leaf: leaf.sharding, params)) == jax.tree.leaves(shardings)


def test_layers_may_be_split_between_devices(tmp_path):
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices; tests run with several CPU devices by default")
    config = ModelConfig("llama", 8, 8, 4, 2, 1, 4, 12, 1e4, 1e-6, True, 16)
    params = random_params(config)
    save_params(params, config, tmp_path / "out")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("stage",))
    spec = {True: jax.sharding.PartitionSpec("stage"), False: jax.sharding.PartitionSpec()}
    shardings = {}
    for key in key_table(config):
        tree = shardings
        for name in key.path[:-1]:
            tree = tree.setdefault(name, {})
        tree[key.path[-1]] = jax.sharding.NamedSharding(mesh, spec[key.stacked])
    assert_bit_equal(load_params(tmp_path / "out", config, shardings), params)


def test_shardings_of_another_tree_are_refused(qwen2):
    with pytest.raises(ValueError, match="embedding: no such entry"):
        load_params(qwen2.folder, qwen2.config, {"layers": {}})


def test_loading_holds_the_parameters_and_little_more(tmp_path):
    config = ModelConfig("llama", 512, 256, 6, 4, 2, 64, 1024, 1e4, 1e-6, True, 128)
    params = random_params(config)
    total, largest = (f(leaf.nbytes for leaf in jax.tree.leaves(params)) for f in (sum, max))
    save_params(params, config, tmp_path / "out")
    load_params(tmp_path / "out", config)  # imports and caches are not the point
    tracemalloc.start()
    try:
        loaded = load_params(tmp_path / "out", config)
        jax.block_until_ready(loaded)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= total + largest + 2**20
    assert_bit_equal(loaded, params)


def test_key_names_are_unique(golden):
    names = [name for key in key_table(golden.config) for name in key.names(HF, golden.config.layers)]
    assert len(set(names)) == len(names)
