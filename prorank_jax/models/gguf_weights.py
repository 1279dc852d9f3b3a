"""GGUF files (llama.cpp's format): the architecture from the metadata, and dequantised tensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf.quants import dequantize

from prorank_jax.models.config import FAMILIES, ModelConfig
from prorank_jax.models.gguf_header import GgufHeader, GgufTensor, read_header
from prorank_jax.models.stored_tensor import StoredTensor


def gguf_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a GGUF file by name; each is dequantised to float32 when it is read.

    Raises:
        ValueError: a file that does not hold what it says; see `gguf_header.read_header`.
    """
    tensors = read_header(file).tensors
    return {name: StoredTensor(file, t.shape, partial(_read, file, t)) for name, t in tensors.items()}


def _read(file: Path, tensor: GgufTensor) -> np.ndarray:
    raw = np.memmap(file, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(tensor.size,))
    rows = raw.reshape(*tensor.shape[:-1], -1)  # blocks lie within the rows
    return dequantize(rows, tensor.kind).reshape(tensor.shape)


def gguf_model_config(file: Path) -> ModelConfig:
    """The architecture a GGUF file describes; tied when it has no `output.weight`.

    Raises:
        ValueError: an architecture or variant that this port does not compute, or missing metadata.
    """
    header = read_header(file)
    family = header.metadata.get("general.architecture")
    if family not in FAMILIES:
        raise ValueError(f"{file}: general.architecture={family!r}; supported are {', '.join(FAMILIES)}")
    values = _Metadata(file, family, header)
    _refuse_unsupported_variants(values)
    heads, dim = values.integer("attention.head_count"), values.integer("embedding_length")
    head_dim = values.integer(
        "attention.key_length", values.integer("rope.dimension_count", dim // max(heads, 1))
    )
    for name in ("attention.value_length", "rope.dimension_count"):
        if values.integer(name, head_dim) != head_dim:
            raise values.refusal(name, f"differs from the head dimension {head_dim}, which is not supported")
    return ModelConfig(
        family=family,
        vocab_size=_vocabulary_size(file, header),
        dim=dim,
        layers=values.integer("block_count"),
        heads=heads,
        kv_heads=values.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_dim=values.integer("feed_forward_length"),
        rope_theta=values.number("rope.freq_base", 10_000.0),
        norm_eps=values.number("attention.layer_norm_rms_epsilon"),
        tied="output.weight" not in header.tensors,
        max_positions=values.integer("context_length"),
    )


class _Metadata:
    """The values under the architecture's own prefix, with their types checked."""

    def __init__(self, file: Path, family: str, header: GgufHeader) -> None:
        self.file = file
        self.family = family
        self.metadata = header.metadata

    def get(self, name: str) -> Any:
        return self.metadata.get(f"{self.family}.{name}")

    def refusal(self, name: str, problem: str) -> ValueError:
        return ValueError(f"{self.file}: {self.family}.{name}={self.get(name)!r}: {problem}")

    def integer(self, name: str, default: int | None = None) -> int:
        value = default if self.get(name) is None else self.get(name)
        if type(value) is not int:
            raise self.refusal(name, "a whole number is needed here; take another conversion of the model")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = default if self.get(name) is None else self.get(name)
        if type(value) not in (int, float):
            raise self.refusal(name, "a number is needed here; take another conversion of the model")
        # Stored as float32; its shortest form gives 1e-05 back instead of 9.999999747378752e-06.
        return float(str(np.float32(value)))


def _refuse_unsupported_variants(values: _Metadata) -> None:
    if values.get("rope.scaling.type") not in (None, "none"):
        raise values.refusal("rope.scaling.type", "scaled rotary embeddings are not supported")
    for name in ("rope.scale_linear", "rope.scaling.factor"):
        if values.get(name) not in (None, 0.0, 1.0):
            raise values.refusal(name, "scaled rotary embeddings are not supported")
    if values.get("attention.causal") is False:
        raise values.refusal("attention.causal", "not supported; use a model without it")
    for name in ("expert_count", "attention.sliding_window"):
        if values.get(name):
            raise values.refusal(name, "not supported; use a model without it")
    for name in ("attention.scale", "logit_scale", "residual_scale", "embedding_scale"):
        if values.get(name) not in (None, 0.0):
            raise values.refusal(name, "not supported; use a model without it")


def _vocabulary_size(file: Path, header: GgufHeader) -> int:
    # The embedding's own rows: the metadata may leave the number out.
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ValueError(
            f"{file}: tensor 'token_embd.weight' is missing or no matrix; take another conversion"
        )
    return embedding.shape[0]
