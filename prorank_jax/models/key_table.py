"""Which of our parameters is which tensor of a checkpoint: one table for import and export, HF and GGUF.

Checkpoints hold a linear map as a matrix [out, in] and each layer by itself. Ours are [in…, out…] with
the layers stacked on a leading axis. The names are those of transformers' `*ForCausalLM` classes and of
llama.cpp's `gguf-py/gguf/constants.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prorank_jax.models.config import ModelConfig

HF = "hf"
GGUF = "gguf"


@dataclass(frozen=True)
class Key:
    """One parameter, and the tensor or the N tensors that hold it.

    Attributes:
        path: keys into the nested dict of parameters.
        shape: our shape, of one layer where the parameter is stacked.
        hf, gguf: tensor names; `{i}` stands for the layer.
        stored_shape: shape in a checkpoint.
        transposed: the checkpoint holds [out, in].
        rotary_heads: heads of a matrix whose rows GGUF permutes for the Llama family, else 0.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    hf: str
    gguf: str
    stored_shape: tuple[int, ...]
    transposed: bool = False
    rotary_heads: int = 0

    @property
    def stacked(self) -> bool:
        """Whether the parameter has a leading axis of layers."""
        return "{i}" in self.hf

    def names(self, layout: str, layers: int) -> list[str]:
        """The tensor names, one for each layer if stacked. `layout` is `HF` or `GGUF`."""
        pattern = self.hf if layout == HF else self.gguf
        return [pattern.format(i=i) for i in range(layers)] if self.stacked else [pattern]

    def full_shape(self, layers: int) -> tuple[int, ...]:
        """Our shape with the axis of layers."""
        return (layers, *self.shape) if self.stacked else self.shape

    def from_stored(self, stored: np.ndarray, layout: str) -> np.ndarray:
        """One layer's tensor as ours: [out, in] → [in…, out…]; a view wherever numpy can."""
        if layout == GGUF and self.rotary_heads:
            stored = _interleaved_to_halves(stored, self.rotary_heads)
        return (stored.T if self.transposed else stored).reshape(self.shape)

    def to_stored(self, ours: np.ndarray) -> np.ndarray:
        """One layer of ours as a Hugging Face tensor; the inverse of `from_stored(…, HF)`."""
        if self.transposed:
            return ours.reshape(self.stored_shape[::-1]).T
        return ours.reshape(self.stored_shape)


def key_table(config: ModelConfig) -> tuple[Key, ...]:
    """Every parameter of a model of this configuration, the large tables first."""
    c = config
    # llama.cpp rotates neighbouring pairs for Llama, so its converter moves rows; Qwen's stay in place.
    permuted = config.family == "llama"
    table = (c.vocab_size, c.dim)
    keys = [Key(("embedding",), table, "model.embed_tokens.weight", "token_embd.weight", table)]
    if not c.tied:
        keys.append(Key(("unembedding",), table, "lm_head.weight", "output.weight", table))
    keys.append(_norm(("final_norm",), "model.norm", "output_norm", c.dim))
    keys += [
        _layer_kernel("mlp", "gate", "mlp.gate_proj", "ffn_gate", (c.dim,), (c.mlp_dim,)),
        _layer_kernel("mlp", "up", "mlp.up_proj", "ffn_up", (c.dim,), (c.mlp_dim,)),
        _layer_kernel("mlp", "down", "mlp.down_proj", "ffn_down", (c.mlp_dim,), (c.dim,)),
    ]
    for ours, letter, heads in (
        ("query", "q", c.heads),
        ("key", "k", c.kv_heads),
        ("value", "v", c.kv_heads),
    ):
        rotary_heads = heads if permuted and letter != "v" else 0
        hf, gguf, fan_out = f"self_attn.{letter}_proj", f"attn_{letter}", (heads, c.head_dim)
        keys.append(_layer_kernel("attention", ours, hf, gguf, (c.dim,), fan_out, rotary_heads))
        if c.qkv_bias:
            keys.append(_layer_bias("attention", ours, hf, gguf, fan_out))
        if c.qk_norm and letter != "v":
            keys.append(
                _layer_norm(
                    ("attention", f"{ours}_norm"), f"self_attn.{letter}_norm", f"{gguf}_norm", c.head_dim
                )
            )
    keys += [
        _layer_kernel(
            "attention", "output", "self_attn.o_proj", "attn_output", (c.heads, c.head_dim), (c.dim,)
        ),
        _layer_norm(("attention_norm",), "input_layernorm", "attn_norm", c.dim),
        _layer_norm(("mlp_norm",), "post_attention_layernorm", "ffn_norm", c.dim),
    ]
    return tuple(keys)


def put_at_path(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Sets an entry of a nested dict, making the dicts on the way."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def at_path(tree: Any, path: tuple[str, ...]) -> Any:
    """The entry of a nested dict.

    Raises:
        ValueError: there is none; the message names the path.
    """
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            raise ValueError(
                f"{'.'.join(path)}: no such entry; give a tree nested like the model's parameters"
            )
        tree = tree[name]
    return tree


def _norm(path: tuple[str, ...], hf: str, gguf: str, size: int) -> Key:
    return Key((*path, "scale"), (size,), f"{hf}.weight", f"{gguf}.weight", (size,))


def _layer_norm(path: tuple[str, ...], hf: str, gguf: str, size: int) -> Key:
    return _norm(("layers", *path), f"model.layers.{{i}}.{hf}", f"blk.{{i}}.{gguf}", size)


def _layer_kernel(
    module: str,
    name: str,
    hf: str,
    gguf: str,
    fan_in: tuple[int, ...],
    fan_out: tuple[int, ...],
    rotary_heads: int = 0,
) -> Key:
    return Key(
        path=("layers", module, name, "kernel"),
        shape=(*fan_in, *fan_out),
        hf=f"model.layers.{{i}}.{hf}.weight",
        gguf=f"blk.{{i}}.{gguf}.weight",
        stored_shape=(math.prod(fan_out), math.prod(fan_in)),
        transposed=True,
        rotary_heads=rotary_heads,
    )


def _layer_bias(module: str, name: str, hf: str, gguf: str, shape: tuple[int, ...]) -> Key:
    return Key(
        path=("layers", module, name, "bias"),
        shape=shape,
        hf=f"model.layers.{{i}}.{hf}.bias",
        gguf=f"blk.{{i}}.{gguf}.bias",
        stored_shape=(math.prod(shape),),
    )


def _interleaved_to_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's row permutation of a [heads·C, D] matrix.

    Its converter (`LlamaModel.permute`) turns each head's rows (0…C/2−1, C/2…C−1) into pairs
    (0, C/2, 1, C/2+1, …); splitting even from odd rows restores the two halves.
    """
    out, fan_in = rows.shape
    pairs = rows.reshape(heads, out // heads // 2, 2, fan_in)
    return pairs.swapaxes(1, 2).reshape(out, fan_in)
