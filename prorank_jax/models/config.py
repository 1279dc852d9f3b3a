"""The architecture of a decoder-only language model, and its Hugging Face form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAMILIES = ("qwen2", "qwen3", "llama")
_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)

# What transformers takes where config.json leaves a field out; all else it takes alike for these families.
_LEFT_OUT: dict[str, dict[str, int]] = {
    "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
    "qwen3": {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
    "llama": {"max_position_embeddings": 2048},
}

# Far above any model's: the names of all layers are listed before a file can show that they are not there.
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and variants of a model; the letters are those of the whole project.

    `family` decides the variants: Qwen2 and Qwen2.5 add biases to queries, keys and values; Qwen3
    normalises queries and keys per head; Llama does neither.
    """

    family: str
    vocab_size: int  # V
    dim: int  # D
    layers: int  # N
    heads: int  # H
    kv_heads: int  # J
    head_dim: int  # C
    mlp_dim: int  # F
    rope_theta: float
    norm_eps: float
    tied: bool
    max_positions: int

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"model_type={self.family!r}: supported are {', '.join(FAMILIES)}")
        for name in (
            "vocab_size",
            "dim",
            "layers",
            "heads",
            "kv_heads",
            "head_dim",
            "mlp_dim",
            "max_positions",
        ):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"model config: {name}={size!r} must be a whole number above 0")
        if self.layers > _MOST_LAYERS:
            raise ValueError(f"model config: layers={self.layers}: more than {_MOST_LAYERS}; take a true one")
        if self.heads % self.kv_heads:
            raise ValueError(f"model config: {self.heads} heads are no multiple of {self.kv_heads} KV heads")
        if self.head_dim % 2:
            raise ValueError(f"model config: head_dim={self.head_dim} must be even for rotary embedding")
        for name in ("rope_theta", "norm_eps"):
            if not 0 < float(getattr(self, name)) < float("inf"):
                raise ValueError(f"model config: {name}={getattr(self, name)!r} must be finite and above 0")

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have a bias."""
        return self.family == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised per head before the rotary embedding."""
        return self.family == "qwen3"

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Reads the mapping in a Hugging Face `config.json`.

        Raises:
            ValueError: a family or a variant that this port does not compute, or a missing field.
        """
        family = values.get("model_type")
        if family not in FAMILIES:
            raise ValueError(f"config.json: model_type={family!r}; supported are {', '.join(FAMILIES)}")
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            raise ValueError(f"config.json: {', '.join(missing)} missing; take the model's own config.json")
        values = {**_LEFT_OUT[family], **values}
        _refuse_unsupported_variants(family, values)
        heads = values["num_attention_heads"]
        for name in ("hidden_size", "num_attention_heads"):  # divided below, before the sizes are checked
            if type(values[name]) is not int or values[name] < 1:
                raise ValueError(f"config.json: {name}={values[name]!r} must be a whole number above 0")
        return cls(
            family=family,
            vocab_size=values["vocab_size"],
            dim=values["hidden_size"],
            layers=values["num_hidden_layers"],
            heads=heads,
            kv_heads=values.get("num_key_value_heads") or heads,
            head_dim=values.get("head_dim") or values["hidden_size"] // heads,
            mlp_dim=values["intermediate_size"],
            rope_theta=_number("rope_theta", _rope_parameters(values).get("rope_theta", 10_000.0)),
            norm_eps=_number("rms_norm_eps", values.get("rms_norm_eps", 1e-6)),
            tied=bool(values.get("tie_word_embeddings", False)),
            max_positions=values["max_position_embeddings"],
        )

    def to_hf(self) -> dict[str, Any]:
        """The mapping for a `config.json` that transformers loads; inverse of `from_hf`."""
        values: dict[str, Any] = {
            "architectures": [_ARCHITECTURES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp_dim,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_positions,
            "hidden_act": "silu",
        }
        if self.family != "qwen2":
            values["attention_bias"] = False
        return values


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"config.json: {name}={value!r} must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"config.json: {name} is too large; take the model's own config.json") from error


def _rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings from the place that transformers 5 reads, which knows the places of 4, too."""
    for name in ("rope_parameters", "rope_scaling"):
        nested = values.get(name) or {}
        # transformers 5 allows one mapping for each kind of layer; those models need more than this port.
        if not isinstance(nested, Mapping) or any(isinstance(v, Mapping) for v in nested.values()):
            raise ValueError(f"config.json: {name}={nested!r} is not supported; one flat mapping is")
    top = {"rope_theta": values["rope_theta"]} if "rope_theta" in values else {}
    return {**top, **(values.get("rope_scaling") or values.get("rope_parameters") or {})}


def _partial_rotary_factor(values: Mapping[str, Any]) -> Any:
    return _rope_parameters(values).get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0))


def _refuse_unsupported_variants(family: str, values: Mapping[str, Any]) -> None:
    rope = _rope_parameters(values)
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    kinds = values.get("layer_types") or []
    refused = {
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "rope_scaling": rope_type != "default",
        "use_sliding_window": bool(values.get("use_sliding_window")),
        "attention_bias": family != "qwen2" and bool(values.get("attention_bias")),
        "mlp_bias": bool(values.get("mlp_bias")),
        "is_causal": values.get("is_causal") is False,  # transformers then attends to what follows, too
        "layer_types": not isinstance(kinds, list | tuple) or any(kind != "full_attention" for kind in kinds),
        "partial_rotary_factor": _partial_rotary_factor(values) != 1.0,
    }
    for name, is_refused in refused.items():
        if is_refused:
            value = rope_type if name == "rope_scaling" else values.get(name, rope.get(name))
            raise ValueError(f"config.json: {name}={value!r} is not supported; use a model without it")
