"""The tiny tokenizer with what Qwen's has and it was too small to learn, or to need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cpu.tiny_run import TOKENIZER, TOKENIZER_SIZE

# A punctuation mark and the newline after it are one token in Qwen's vocabulary; Ċ is a newline there.
JOINED = (".Ċ", "?Ċ", "!Ċ", "ĠĊ", "ĊĊ")
JOINING_SIZE = TOKENIZER_SIZE + len(JOINED)


def write_joining_tokenizer(folder: Path) -> Path:
    """Writes it into a folder, beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for index, token in enumerate(JOINED, start=TOKENIZER_SIZE):
        content["model"]["vocab"][token] = index
        content["model"]["merges"].append([token[0], token[1]])
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["additional_special_tokens"] = ["<|im_start|>", "<|im_end|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
