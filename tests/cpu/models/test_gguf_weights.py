"""GGUF files in: the same parameters as from safetensors, dequantised exactly, variants refused."""

from __future__ import annotations

from unittest.mock import Mock

import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from prorank_jax.config import MeshOptions
from prorank_jax.models import gguf_header, gguf_weights
from prorank_jax.models.transformer import Transformer
from prorank_jax.models.weights import load_model_config, load_params
from prorank_jax.sharding import make_mesh
from prorank_jax.train_state import pretrained_shardings
from tests.cpu.models.checkpoint_files import (
    GGUF_NAMES,
    assert_bit_equal,
    copy_of,
    hf_tensors,
    write_gguf,
)


def test_gguf_float32_is_bit_equal_to_safetensors(golden, tmp_path):
    file = write_gguf(golden, tmp_path / "model.gguf")
    assert load_model_config(file) == golden.config
    assert_bit_equal(load_params(file, golden.config), golden.params)


def test_a_tensor_is_made_whole_once_whatever_number_of_devices_gets_parts_of_it(
    golden, tmp_path, monkeypatch
):
    file = write_gguf(golden, tmp_path / "model.gguf")
    mesh = make_mesh(MeshOptions(data=1, fsdp=len(jax.devices())))
    shardings = pretrained_shardings(Transformer(golden.config), mesh)
    read = Mock(side_effect=gguf_weights._read)
    monkeypatch.setattr(gguf_weights, "_read", read)
    assert_bit_equal(load_params(file, golden.config, shardings), golden.params)
    tensors = gguf_header.read_header(file).tensors
    assert sorted(call.args[1].offset for call in read.call_args_list) == sorted(
        tensor.offset for tensor in tensors.values()
    )


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1, Kind.BF16])
def test_quantised_gguf_equals_its_dequantised_checkpoint(golden, tmp_path, kind, all_logits):
    rounded = {}
    for name, stored in hf_tensors(golden).items():
        tensor = stored.astype(np.float32)
        if tensor.ndim == 2:
            chosen = kind if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else Kind.F16
            tensor = gguf.dequantize(gguf.quantize(tensor, chosen), chosen).reshape(tensor.shape)
        rounded[name] = tensor
    expected = load_params(copy_of(golden, tmp_path / "hf", rounded), golden.config)
    got = load_params(write_gguf(golden, tmp_path / "model.gguf", kind), golden.config)
    assert_bit_equal(got, expected)
    if kind == Kind.Q8_0:
        logits = all_logits(got, golden.tokens, golden.lengths, config=golden.config)
        assert np.abs(np.asarray(logits) - golden.logits)[golden.real].mean() < 0.1


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"rope.scaling.type": ("add_string", "yarn")}, r"rope\.scaling\.type='yarn'"),
        ({"rope.scaling.factor": ("add_float32", 4.0)}, r"rope\.scaling\.factor"),
        ({"expert_count": ("add_uint32", 8)}, "expert_count=8"),
        ({"attention.sliding_window": ("add_uint32", 64)}, "sliding_window=64"),
        ({"attention.value_length": ("add_uint32", 4)}, r"value_length=4.*head dimension 8"),
        ({"attention.key_length": ("add_uint32", 16)}, r"rope\.dimension_count=8.*head dimension 16"),
        ({"attention.causal": ("add_bool", False)}, r"attention\.causal=False"),
        ({"logit_scale": ("add_float32", 2.0)}, "logit_scale=2.0"),
    ],
)
def test_gguf_variants_that_would_be_computed_wrongly(qwen2, tmp_path, metadata, named):
    with pytest.raises(ValueError, match=named):
        load_model_config(write_gguf(qwen2, tmp_path / "model.gguf", metadata=metadata))


def test_gguf_of_another_architecture(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "gemma2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match="'gemma2'; supported are qwen2, qwen3, llama"):
        load_model_config(tmp_path / "model.gguf")


def test_gguf_rope_factors_are_refused(qwen2, tmp_path, monkeypatch):
    monkeypatch.setitem(GGUF_NAMES, "rope_freqs", "rope_freqs")
    extra = {"rope_freqs.weight": np.ones(4, np.float32)}
    file = write_gguf(qwen2, tmp_path / "model.gguf", extra=extra)
    with pytest.raises(ValueError, match=r"'rope_freqs\.weight'.*scales the rotary embedding"):
        load_params(file, qwen2.config)
