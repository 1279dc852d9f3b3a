"""Checkpoints and logits from Hugging Face transformers (PyTorch), to compare ours with.

Runs in an environment of its own with torch and transformers; imports nothing of this project.

    python transformers_logits.py random --output FOLDER [--seed 0] [--max-shard-size 30KB]
    python transformers_logits.py logits --model FOLDER --tokens IN.npz --output OUT.npz [--gguf-file NAME]

`random` writes one small random checkpoint per family with `save_pretrained`, and beside each an
`expected.npz` with tokens [B, T] int32, lengths [B] int32 and logits [B, T, V] float32. Logits at padding
are meaningless. The goldens in tests/cpu/goldens/transformers_* are what `random --seed 0` writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
# Each family once in the type its published checkpoints have, and both ways of tying.
VARIANTS = {
    "qwen2_tied": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}, torch.bfloat16),
    "qwen2_untied": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"tie_word_embeddings": False, "num_hidden_layers": 2},
        torch.float32,
    ),
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config,
        {"tie_word_embeddings": True, "head_dim": 16, "num_hidden_layers": 2},
        torch.float32,
    ),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig,
        {"tie_word_embeddings": False, "rms_norm_eps": 1e-5},
        torch.float16,
    ),
}
LENGTHS = (11, 1, 7, 4)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    random = commands.add_parser("random")
    random.add_argument("--output", type=Path, required=True)
    random.add_argument("--seed", type=int, default=0)
    random.add_argument("--max-shard-size", default="1GB")
    logits = commands.add_parser("logits")
    logits.add_argument("--model", type=Path, required=True)
    logits.add_argument("--tokens", type=Path, required=True)
    logits.add_argument("--output", type=Path, required=True)
    logits.add_argument("--gguf-file")
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.command == "random":
        for name in VARIANTS:
            write_random_checkpoint(name, options.output, options.seed, options.max_shard_size)
    else:
        extra = {"gguf_file": options.gguf_file} if options.gguf_file else {}
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, **extra)
        batch = np.load(options.tokens)
        np.savez(options.output, logits=compute_logits(model, batch["tokens"], batch["lengths"]))


def write_random_checkpoint(name: str, output: Path, seed: int, max_shard_size: str) -> None:
    """Saves one variant and its logits in `output/transformers_{name}`."""
    model_class, config_class, extra, dtype = VARIANTS[name]
    torch.manual_seed(seed)
    rope: dict[str, Any] = {"rope_theta": 1_000_000.0 if name.startswith("qwen") else 50_000.0}
    if int(transformers.__version__.split(".")[0]) >= 5:
        rope = {"rope_parameters": {"rope_type": "default", **rope}}
    model = model_class(config_class(**{**SIZES, **extra}, **rope))
    randomise(model)
    folder = output / f"transformers_{name}"
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them readable for their owner only
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, SIZES["vocab_size"], (len(LENGTHS), max(LENGTHS)), dtype=np.int32)
    lengths = np.array(LENGTHS, np.int32)
    # Loaded again, not cast back: `.to(bfloat16)` also rounded the frequencies of the rotary embedding.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = compute_logits(model, tokens, lengths)
    np.savez(folder / "expected.npz", tokens=tokens, lengths=lengths, logits=logits)
    real = np.abs(logits[np.arange(tokens.shape[1]) < lengths[:, None]])
    print(f"{name}: |logits| up to {real.max():.1f}, mean {real.mean():.1f}")


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Values that make every part count: attention far from uniform, norms and biases not at 1 and 0."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape))
        elif name.endswith("bias") or "embed" in name or "lm_head" in name:
            parameter.copy_(0.5 * torch.randn(parameter.shape))
        else:
            parameter.copy_(1.5 / parameter.shape[1] ** 0.5 * torch.randn(parameter.shape))


@torch.no_grad()
def compute_logits(model: torch.nn.Module, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] of rows padded on the right."""
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    output = model.eval()(
        input_ids=torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(mask).long()
    )
    return output.logits.float().numpy()


if __name__ == "__main__":
    main()
