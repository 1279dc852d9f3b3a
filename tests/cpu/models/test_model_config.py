"""ModelConfig: published configurations are read right, and what is not computed is refused."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from transformers import CONFIG_MAPPING

from prorank_jax.models.config import ModelConfig
from prorank_jax.models.weights import load_model_config

# config.json of Qwen/Qwen2.5-0.5B-Instruct, the backbone of mxbai-rerank-base-v2.
QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA = {**QWEN25_05B, "model_type": "llama"}


def test_reads_a_published_config():
    assert ModelConfig.from_hf(QWEN25_05B) == ModelConfig(
        family="qwen2",
        vocab_size=151936,
        dim=896,
        layers=24,
        heads=14,
        kv_heads=2,
        head_dim=64,
        mlp_dim=4864,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        tied=True,
        max_positions=32768,
    )


def test_reads_what_transformers_5_wrote(golden):
    values = json.loads((golden.folder / "config.json").read_text())
    assert "rope_theta" not in values
    assert golden.config.rope_theta == values["rope_parameters"]["rope_theta"]
    assert golden.config.tied is values["tie_word_embeddings"]


def test_to_hf_is_the_inverse_of_from_hf(golden):
    assert ModelConfig.from_hf(golden.config.to_hf()) == golden.config


def test_absent_kv_heads_and_head_dim_follow_from_the_heads():
    absent = {**LLAMA, "num_key_value_heads": None, "head_dim": None}
    config = ModelConfig.from_hf(absent)
    assert (config.kv_heads, config.head_dim) == (14, 64)


OPTIONAL = (
    "rope_theta",
    "rms_norm_eps",
    "tie_word_embeddings",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("left_out", [*((name,) for name in OPTIONAL), OPTIONAL])
def test_what_a_config_leaves_out_is_what_transformers_takes(family, left_out):
    whole = {
        **QWEN25_05B,
        "model_type": family,
        "num_attention_heads": 64,
        "hidden_size": 2048,
        "head_dim": 48,
    }
    values = {name: value for name, value in whole.items() if name not in left_out}
    ours, theirs = ModelConfig.from_hf(values), CONFIG_MAPPING[family](**values)
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 2048 // 64)
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert (ours.norm_eps, ours.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("at_the_top", [{}, {"rope_theta": 5e5}])
@pytest.mark.parametrize("parameters", [{}, {"rope_theta": 6e5}, {"rope_type": "default"}])
@pytest.mark.parametrize("scaling", [{}, {"rope_theta": 7e5}, {"rope_type": "default"}])
def test_of_several_rotary_bases_the_one_of_transformers_counts(family, at_the_top, parameters, scaling):
    values = {name: value for name, value in QWEN25_05B.items() if name != "rope_theta"}
    values |= {**at_the_top, "model_type": family, "rope_parameters": parameters, "rope_scaling": scaling}
    theirs = CONFIG_MAPPING[family](**copy.deepcopy(values))
    assert ModelConfig.from_hf(values).rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_the_family_decides_biases_and_head_norms(family):
    config = dataclasses.replace(ModelConfig.from_hf(QWEN25_05B), family=family)
    assert config.qkv_bias == (family == "qwen2")
    assert config.qk_norm == (family == "qwen3")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma2"}, "gemma2"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters"),
        ({"rope_parameters": 10000.0}, "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"is_causal": False}, "is_causal=False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        *(({"layer_types": value}, "layer_types") for value in (5, True, "full_attention")),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": "14"}, "num_attention_heads"),
        ({"hidden_size": 896.0}, "hidden_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_hidden_layers": -1}, "layers"),
        ({"num_key_value_heads": 4}, "KV heads"),
        ({"head_dim": 63}, "head_dim"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": "1e6"}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta is too large"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta is too large"),
        ({"rms_norm_eps": float("nan")}, "norm_eps"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(changes, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_hf({**LLAMA, **changes})


def test_names_missing_fields():
    values = {name: value for name, value in LLAMA.items() if name != "intermediate_size"}
    with pytest.raises(ValueError, match="intermediate_size missing"):
        ModelConfig.from_hf(values)


@pytest.mark.parametrize("content", ["", "{", "[]", '"qwen2"', "[" * 100_000])
def test_unreadable_config_files_are_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model_config(tmp_path)


def test_a_folder_without_config_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_model_config(tmp_path)
