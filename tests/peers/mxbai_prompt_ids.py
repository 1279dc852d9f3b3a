"""Asks the real mxbai-rerank package for the token ids of its prompts.

It runs in an environment of its own, with `mxbai-rerank==0.1.6`, `torch` and `transformers>=4.49,<5`
(transformers 5 took `prepare_for_model` from fast tokenizers, and the package calls it).

    python tests/peers/mxbai_prompt_ids.py                   rewrites the goldens of tests/cpu
    python tests/peers/mxbai_prompt_ids.py TOKENIZER CASES    prints the cases with ids, as JSON

TOKENIZER is a folder; CASES a JSON file: a list of objects with `max_length` (the package's own: query,
separator and document), `query`, `document` and `instruction` (empty: none).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mxbai_rerank import MxbaiRerankV2
from transformers import Qwen2Config, Qwen2ForCausalLM

GOLDENS = Path(__file__).parents[1] / "cpu" / "goldens"
PACKAGES = ("mxbai-rerank", "transformers", "tokenizers")
QUERY = "how do plants store water?"
DOCUMENT = "Roots store water. A document of 2 sentences."
SCRIPTS = "Wasser 水を 저장 تخزن क्या é e\u0301 👍🏽 x²=½\u00a0"


def golden_cases() -> list[dict[str, Any]]:
    """Short, long, empty, over length, many scripts, odd spaces, braces, instructions."""
    long_document, long_query = DOCUMENT * 20, QUERY * 20
    texts = [
        (QUERY, DOCUMENT, ""),
        (QUERY, DOCUMENT, "prefer recent work"),
        ("", "", ""),
        ("", DOCUMENT, ""),
        (QUERY, "", ""),
        (QUERY, long_document, ""),
        (long_query, DOCUMENT, ""),
        (long_query, long_document, "prefer recent work"),
        (SCRIPTS, SCRIPTS * 3, ""),
        (" {query} \n", "\n\n\tif x == {0}:\r\n    return '12345'   \n\n", "Format: {instruction}\n"),
    ]
    return [
        {"max_length": length, "query": query, "document": document, "instruction": instruction}
        for length in (64, 65, 200)
        for query, document, instruction in texts
    ]


def load_reranker(tokenizer: Path, folder: Path) -> MxbaiRerankV2:
    """The package's class around a random model of a few weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return MxbaiRerankV2(str(folder), device="cpu", disable_transformers_warnings=True)


def prompt_ids(reranker: MxbaiRerankV2, case: dict[str, Any]) -> list[int]:
    reranker.max_length = case["max_length"]
    inputs = reranker.prepare_inputs(
        [case["query"]], [case["document"]], instruction=case["instruction"] or None
    )
    return inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()


def ask_package(tokenizer: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        reranker = load_reranker(tokenizer, Path(folder))
        return {
            "made_with": {name: version(name) for name in PACKAGES},
            "predefined_length": reranker.predefined_length,
            "cases": [case | {"ids": prompt_ids(reranker, case)} for case in cases],
        }


def main() -> None:
    if len(sys.argv) == 3:
        tokenizer, cases = map(Path, sys.argv[1:])
        print(json.dumps(ask_package(tokenizer, json.loads(cases.read_text(encoding="utf-8")))))
        return
    answer = ask_package(GOLDENS / "tiny_qwen", golden_cases())
    lines = ",\n".join(json.dumps(case) for case in answer.pop("cases"))
    head = json.dumps(answer)[:-1]
    (GOLDENS / "mxbai_prompts.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
