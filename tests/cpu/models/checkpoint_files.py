"""Checkpoint files made from the goldens, in both formats, for the tests beside this file."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import jax
import numpy as np
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file, save_file

from prorank_jax.models.config import ModelConfig
from prorank_jax.models.key_table import key_table

EMBEDDING = "model.embed_tokens.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def assert_bit_equal(first, second) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


def copy_of(golden, folder: Path, changes=None, removed=()) -> Path:
    """A float32 checkpoint folder like the golden's, with tensors replaced, added or removed."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(golden.folder / "config.json", folder)
    tensors = {name: array.astype(np.float32) for name, array in hf_tensors(golden).items()}
    tensors |= changes or {}
    save_file({name: t for name, t in tensors.items() if name not in removed}, folder / "model.safetensors")
    return folder


def hf_tensors(golden) -> dict[str, np.ndarray]:
    return load_file(golden.folder / "model.safetensors")


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(hf_name: str) -> str:
    base, kind = hf_name.rsplit(".", 1)
    if base.startswith("model.layers."):
        layer, part = base.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"
    return f"{GGUF_NAMES[base]}.{kind}"


def llama_rows(matrix: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's `permute`, as its converter applies it to Llama's queries and keys."""
    halves = matrix.reshape(heads, 2, matrix.shape[0] // heads // 2, *matrix.shape[1:])
    return halves.swapaxes(1, 2).reshape(matrix.shape)


def write_gguf(golden, file: Path, kind: Kind = Kind.F32, metadata=None, extra=None) -> Path:
    """The golden as llama.cpp's converter writes it; rows that are no multiple of a block stay F16."""
    config: ModelConfig = golden.config
    writer = gguf.GGUFWriter(file, config.family)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.family == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    else:
        writer.add_rope_dimension_count(config.head_dim)
    for name, (add, value) in (metadata or {}).items():
        getattr(writer, add)(f"{config.family}.{name}", value)
    for name, stored in {**hf_tensors(golden), **(extra or {})}.items():
        tensor = stored.astype(np.float32)
        if config.family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = llama_rows(tensor, config.heads if "q_proj" in name else config.kv_heads)
        block = gguf.GGML_QUANT_SIZES[kind][0]
        chosen = Kind.F32 if tensor.ndim == 1 else kind if tensor.shape[-1] % block == 0 else Kind.F16
        writer.add_tensor(
            gguf_name(name) if "." in name else name, gguf.quantize(tensor, chosen), raw_dtype=chosen
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def random_params(config: ModelConfig):
    rng = np.random.default_rng(0)
    params: dict = {}
    for key in key_table(config):
        tree = params
        for name in key.path[:-1]:
            tree = tree.setdefault(name, {})
        tree[key.path[-1]] = rng.normal(size=key.full_shape(config.layers)).astype(np.float32)
    return params
