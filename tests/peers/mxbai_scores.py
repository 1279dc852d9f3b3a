"""Asks the real mxbai-rerank package for scores, and saves small random Qwen2 checkpoints for it.

Runs in the environment that mxbai_prompt_ids.py describes; imports nothing of this project.

    python mxbai_scores.py random --tokenizer FOLDER --output FOLDER --seeds SEED...
    python mxbai_scores.py scores --models FOLDER... --cases IN.json

`random` writes a checkpoint into `seed0` and so on. `scores` writes `FOLDER.answer.json` beside each folder.

IN.json is a list of objects with `max_length` (the package's own: query, separator and document),
`instruction` (empty: none) and `pairs`, a list of [query, document] that become one batch. The answer has
`predefined_length`, the tokens of the prompt's fixed text, and `scores`, a list for each case.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from mxbai_rerank import MxbaiRerankV2
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    random = commands.add_parser("random")
    random.add_argument("--tokenizer", type=Path, required=True)
    random.add_argument("--output", type=Path, required=True)
    random.add_argument("--seeds", type=int, nargs="+", required=True)
    scores = commands.add_parser("scores")
    scores.add_argument("--models", type=Path, nargs="+", required=True)
    scores.add_argument("--cases", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.command == "random":
        for seed in options.seeds:
            save_random_model(options.tokenizer, options.output / f"seed{seed}", seed)
    else:
        cases = json.loads(options.cases.read_text(encoding="utf-8"))
        for model in options.models:
            answer = json.dumps(ask_package(model, cases))
            answer_file(model).write_text(answer, encoding="utf-8")


def answer_file(model: Path) -> Path:
    """Beside the model's folder: what is in it must stay the model."""
    return model.with_name(f"{model.name}.answer.json")


@torch.no_grad()
def save_random_model(tokenizer: Path, output: Path, seed: int) -> None:
    """A Qwen2 whose scores differ between documents: norms and biases are random too."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(AutoTokenizer.from_pretrained(tokenizer)),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        if "norm" in name:
            parameter.copy_(1 + 0.3 * noise)
        elif name.endswith("bias") or "embed" in name:
            parameter.copy_(0.5 * noise)
        else:
            parameter.copy_(1.5 / parameter.shape[1] ** 0.5 * noise)
    model.save_pretrained(output)
    shutil.copytree(tokenizer, output, dirs_exist_ok=True)


def ask_package(model: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The package's own scores in float32, a list for each case."""
    reranker = MxbaiRerankV2(
        str(model), device="cpu", torch_dtype=torch.float32, disable_transformers_warnings=True
    )
    scores = []
    for case in cases:
        reranker.max_length = case["max_length"]
        queries, documents = zip(*case["pairs"], strict=True)
        instruction = case["instruction"] or None
        scores.append(reranker.predict(list(queries), list(documents), instruction=instruction).tolist())
    return {"predefined_length": reranker.predefined_length, "scores": scores}


if __name__ == "__main__":
    main()
