"""Trains the tiny Qwen-like tokenizer that the prompt goldens are made with.

Run from the repository root: `python tests/peers/train_tiny_tokenizer.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FOLDER = Path(__file__).parents[1] / "cpu" / "goldens" / "tiny_qwen"
MERGED_TOKENS = 300
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ORDINARY_ADDED_TOKENS = ("<tool_call>", "</tool_call>")
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCES = (
    "You are a helpful assistant of the search engine, and you read every document and every query.",
    "The relevance of a document to the query of the user is judged as relevant or not relevant.",
    "For each pair of a query and a document, read both carefully and give a judgment: 0 or 1.",
    "instruction: prefer recent work\nquery: how do plants store water?\ndocument: Roots store water.",
    "An expert evaluates how well documents match; then the analysis of the relationship is written down.",
    "The instruction names the task. A system turn comes first, then the user, then the assistant.",
    "Search results are ranked by the score, and the most relevant documents are shown first.",
    "Water boils at 100 degrees at sea level, and at 93 degrees on a mountain of 2000 metres.",
)


def main() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGED_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ORDINARY_ADDED_TOKENS])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": "{{ 'You are Qwen, created by Alibaba Cloud.' }}",
    }
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
